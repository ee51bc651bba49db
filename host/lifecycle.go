package main

import (
	"context"
	"fmt"
	"sync"

	"go.uber.org/fx"
)

// failure is the first error that ended a part of the host while it was running, and so ends the host.
type failure struct {
	once sync.Once
	err  error
	done chan struct{}
}

func newFailure() *failure { return &failure{done: make(chan struct{})} }

func (f *failure) set(err error) {
	f.once.Do(func() {
		f.err = err
		close(f.done)
	})
}

// loop starts run with the application, on a context of its own (the one that fx gives to OnStart ends with the start),
// and on stop ends that context and waits for run. An error of run ends the host.
func loop(lc fx.Lifecycle, failed *failure, name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	lc.Append(fx.Hook{
		OnStart: func(context.Context) error {
			go func() {
				defer close(done)
				if err := run(ctx); err != nil && ctx.Err() == nil {
					failed.set(fmt.Errorf("%s: %w", name, err))
				}
			}()
			return nil
		},
		OnStop: func(stop context.Context) error {
			cancel()
			select {
			case <-done:
				return nil
			case <-stop.Done():
				return fmt.Errorf("%s did not stop in time", name)
			}
		},
	})
}
