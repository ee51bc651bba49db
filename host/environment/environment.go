// Package environment keeps the program from being told what to do by variables that are not its own.
//
// The conformance suite, which `starling plugin verify` runs, is made with rapid, a library for tests. At its initialization that
// reads variables named RAPID_..., and panics at one that it can not read: the whole program would end at its start. This
// package takes them out of the environment before. It promises that by the order in which Go initializes packages: by import
// path, each once those that it imports are done; it imports less than rapid does, and sorts before it.
package environment

import (
	"os"
	"strings"
)

func init() { //nolint:gochecknoinits // there is no later moment
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "RAPID_") {
			_ = os.Unsetenv(name) // else it is as if this package were not there
		}
	}
}
