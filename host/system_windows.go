package main

import (
	"fmt"

	"golang.org/x/sys/windows"
)

// operatingSystem returns what the system calls itself and its version, for people.
func operatingSystem() (name, version string) {
	v := windows.RtlGetVersion()
	return "Windows", fmt.Sprintf("%d.%d.%d", v.MajorVersion, v.MinorVersion, v.BuildNumber)
}
