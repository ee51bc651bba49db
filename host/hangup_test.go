package main

import (
	"syscall"
	"testing"
)

// TestHangups_postpone has SIGHUPs come while nothing can be reloaded: each is said, and they are obeyed once afterwards.
func TestHangups_postpone(t *testing.T) {
	h := make(hangups, 1)
	said := make(chan struct{})
	resume := h.postpone(func() { said <- struct{}{} })
	for range 3 {
		h <- syscall.SIGHUP
		<-said
	}
	resume()
	if len(h) != 1 {
		t.Error("what came while the host waited is forgotten")
	}
	<-h
	h.postpone(func() {})()
	if len(h) != 0 {
		t.Error("something is to be reloaded though nobody wanted it")
	}
}
