//go:build !windows

package main

import (
	"encoding/xml"
	"os"
	"strconv"
	"strings"
)

// operatingSystem returns what the system calls itself and its version, for people; "" for what it does not tell.
func operatingSystem() (name, version string) {
	if text, err := os.ReadFile("/etc/os-release"); err == nil {
		return osRelease(string(text))
	}
	if text, err := os.ReadFile("/System/Library/CoreServices/SystemVersion.plist"); err == nil {
		return systemVersion(text)
	}
	return "", ""
}

// osRelease reads os-release(5).
func osRelease(text string) (name, version string) {
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if unquoted, err := strconv.Unquote(value); err == nil {
			value = unquoted
		}
		switch key {
		case "NAME":
			name = strings.Trim(value, "'")
		case "VERSION_ID":
			version = strings.Trim(value, "'")
		}
	}
	return strings.ToValidUTF8(name, "\uFFFD"), strings.ToValidUTF8(version, "\uFFFD")
}

// systemVersion reads the property list in which macOS says what it is: keys, each followed by its value.
func systemVersion(text []byte) (name, version string) {
	var list struct {
		Keys   []string `xml:"dict>key"`
		Values []string `xml:"dict>string"`
	}
	if xml.Unmarshal(text, &list) != nil || len(list.Keys) != len(list.Values) {
		return "", ""
	}
	for i, key := range list.Keys {
		switch key {
		case "ProductName":
			name = list.Values[i]
		case "ProductVersion":
			version = list.Values[i]
		}
	}
	return name, version
}
