package catalog

import (
	"context"
	"sync"
	"time"
)

// disks are the disks that locations are on, as far as can be told. The zero value is ready.
type disks struct {
	mu  sync.Mutex
	all map[diskKey]*pace
}

type diskKey struct {
	device int64
	volume string
}

func (d *disks) of(device int64, volume string) *pace {
	d.mu.Lock()
	defer d.mu.Unlock()
	key := diskKey{device, volume}
	if d.all == nil {
		d.all = map[diskKey]*pace{}
	}
	if d.all[key] == nil {
		d.all[key] = &pace{turn: make(chan struct{}, 1)}
	}
	return d.all[key]
}

// pace keeps hashers of one disk from getting in the way of its readings, and of one another.
type pace struct {
	turn chan struct{} // holds a value while a hasher reads a file
	next time.Time     // when it may read the next piece; who has the turn owns it

	mu       sync.Mutex
	readings int           // of locations, under way
	quiet    chan struct{} // closed once there is none; nil: there is none
}

// change counts readings that begin or end.
func (p *pace) change(by int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.readings += by; p.readings == 0 {
		close(p.quiet)
		p.quiet = nil
	} else if p.quiet == nil {
		p.quiet = make(chan struct{})
	}
}

// await blocks until no location on the disk is being read, or ctx ends.
func (p *pace) await(ctx context.Context) error {
	for {
		p.mu.Lock()
		quiet := p.quiet
		p.mu.Unlock()
		if quiet == nil {
			return ctx.Err()
		}
		select {
		case <-quiet:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// begin blocks until a file may be read, which ends with end.
func (p *pace) begin(ctx context.Context) error {
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := p.await(ctx); err != nil {
		p.end()
		return err
	}
	return nil
}

func (p *pace) end() { <-p.turn }

// rest blocks until no location on the disk is being read, and so many bytes more may be read, of rate a second (less than 0:
// without limit).
func (p *pace) rest(ctx context.Context, bytes int, rate int64) error {
	if err := p.await(ctx); err != nil {
		return err
	}
	if rate > 0 && bytes > 0 {
		now := time.Now()
		if p.next.Before(now) {
			p.next = now
		}
		wait(ctx, p.next.Sub(now))
		p.next = p.next.Add(time.Duration(bytes) * time.Second / time.Duration(rate))
	}
	return ctx.Err()
}
