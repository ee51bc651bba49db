package sdktest

import (
	"context"
	"testing"

	"pgregory.net/rapid"
)

// T is what a law needs of what runs it: a test, or a Report.
type T interface {
	rapid.TB
	// Context ends when the law does, before what Cleanup was given runs.
	Context() context.Context
	// Cleanup runs f when the law has ended; what was given last runs first.
	Cleanup(f func())
	// Run runs f as a part of the law, which fails if f does, and reports whether it did not.
	Run(name string, f func(T)) bool
}

// Law is one promise that plugins keep.
type Law struct {
	ID   string `json:"id"`   // such as MODEL-030; it never changes, and the id of a law that goes is not used again
	Name string `json:"name"` // a word or two in a row, as tests are named
	Says string `json:"says"` // one line for people
}

// Check is a law and a plugin that must keep it.
type Check struct {
	Law
	Of  string // what it checks, where a plugin has several of it: the name of a model. Empty: there is but one
	Run func(t T)
}

// test is the name of the check's subtest.
func (c *Check) test() string {
	if c.Of != "" {
		return c.ID + "_" + c.Name + "_" + c.Of
	}
	return c.ID + "_" + c.Name
}

// Test runs each check as a subtest, named by its id.
func Test(t *testing.T, checks []Check) {
	t.Helper()
	for _, c := range checks {
		t.Run(c.test(), func(t *testing.T) { c.Run(goTest{t}) })
	}
}

// goTest is a test as a T.
type goTest struct{ *testing.T }

// Run implements T.
func (g goTest) Run(name string, f func(T)) bool {
	g.Helper()
	return g.T.Run(name, func(t *testing.T) { f(goTest{t}) })
}

// random checks prop on many random histories.
func random(t T, prop func(*rapid.T)) {
	t.Helper()
	if g, ok := t.(goTest); ok {
		rapid.Check(g.T, prop) // which knows its deadline
		return
	}
	rapid.Check(t, prop)
}
