package main

import (
	"os"
	"os/signal"
	"syscall"
)

// hangups receives the SIGHUPs that come in the whole life of a host: without a handler the first would end it. Several that nobody
// has obeyed yet are one.
type hangups chan os.Signal

// catchHangups begins it, before the host does anything that takes time.
func catchHangups() hangups {
	h := make(hangups, 1)
	signal.Notify(h, syscall.SIGHUP)
	return h
}

// end gives SIGHUP back its meaning.
func (h hangups) end() { signal.Stop(h) }

// postpone calls say at each SIGHUP until resume is called, which waits for say. What came is obeyed by who receives afterwards.
func (h hangups) postpone(say func()) (resume func()) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		var last os.Signal
		for {
			select {
			case last = <-h:
				say()
			case <-stop:
				if last == nil {
					return
				}
				select {
				case h <- last:
				default: // another has come
				}
				return
			}
		}
	}()
	return func() {
		close(stop)
		<-stopped
	}
}
