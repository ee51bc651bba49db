//go:build !windows

package main

import "testing"

func TestOSRelease(t *testing.T) {
	for _, test := range []struct{ text, name, version string }{
		{"PRETTY_NAME=\"Debian GNU/Linux 12\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\n", "Debian GNU/Linux", "12"},
		{"NAME=Alpine\nVERSION_ID=3.20.1\n", "Alpine", "3.20.1"},
		{"NAME='Arch Linux'\n", "Arch Linux", ""},
		{"", "", ""},
	} {
		if name, version := osRelease(test.text); name != test.name || version != test.version {
			t.Errorf("%q: %q %q, want %q %q", test.text, name, version, test.name, test.version)
		}
	}
}

func TestSystemVersion(t *testing.T) {
	name, version := systemVersion([]byte(`<?xml version="1.0" encoding="UTF-8"?>
<plist version="1.0"><dict><key>ProductBuildVersion</key><string>24B83</string><key>ProductName</key><string>macOS</string>
<key>ProductVersion</key><string>15.1</string></dict></plist>`))
	if name != "macOS" || version != "15.1" {
		t.Errorf("%q %q", name, version)
	}
	if name, version := systemVersion([]byte("none")); name != "" || version != "" {
		t.Errorf("of no property list: %q %q", name, version)
	}
}
