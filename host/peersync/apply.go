package peersync

import (
	"slices"

	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// staleTries is how often a page whose rows changed under it is prepared again before the stream is held.
const staleTries = 8

// pipe applies the pages of one stream in order: page n+1 is prepared while page n commits. Its goroutine lives while
// there is something to do.
type pipe struct {
	queue   []Apply // guarded by Engine.mu
	running bool    // guarded by Engine.mu

	before chan struct{} // closed when the last commit is over; of the goroutine that runs the pipe
	failed uint64        // generations up to and with failed-1 have failed; touched by one commit after the other
}

func (e *Engine) apply(a Apply) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	p := e.pipes[a.Page.Stream]
	if p == nil {
		p = &pipe{before: make(chan struct{})}
		close(p.before)
		e.pipes[a.Page.Stream] = p
	}
	p.queue = append(p.queue, a)
	if !p.running {
		p.running = true
		e.running.Go(func() { e.runPipe(p) })
	}
}

// next takes the next page of a pipe, or marks the pipe as not running.
func (e *Engine) next(p *pipe) (Apply, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(p.queue) == 0 || e.ctx.Err() != nil {
		p.running, p.queue = false, nil
		return Apply{}, false
	}
	a := p.queue[0]
	p.queue = slices.Delete(p.queue, 0, 1)
	return a, true
}

func (e *Engine) runPipe(p *pipe) {
	for {
		a, ok := e.next(p)
		if !ok {
			return
		}
		before, done := p.before, make(chan struct{})
		p.before = done
		if a.Page.Kind == sdk.SharedByAll {
			<-before
		}
		a.Page = compact(a.Page)
		prepared, err := e.options.Applier.Prepare(e.ctx, a.Page)
		<-before
		e.running.Go(func() {
			defer close(done)
			e.commit(p, a, prepared, err)
		})
	}
}

// commit makes one prepared page durable and reports it.
func (e *Engine) commit(p *pipe, a Apply, prepared Prepared, err error) {
	if a.Generation < p.failed {
		err = sdk.Errorf(sdk.CodeUnavailable, "a page before this one was not applied")
	}
	for try := 0; err == nil || sdk.CodeOf(err) == sdk.CodeStale && try < staleTries; try++ {
		if err != nil {
			if prepared, err = e.options.Applier.Prepare(e.ctx, a.Page); err != nil {
				continue
			}
		}
		if err = prepared.Commit(e.ctx); err == nil {
			break
		}
	}
	if e.ctx.Err() != nil {
		return
	}
	if err != nil {
		p.failed = max(p.failed, a.Generation+1)
	}
	applied := Applied{Generation: a.Generation, Page: a.Page, Err: err, From: a.From}
	if counted, ok := prepared.(Accountant); ok && err == nil {
		applied.Accounts = counted.Account()
	}
	e.post(applied)
}

// compact joins batches of a page that follow each other and have the same columns, as merged live pages do. Batches of
// one model that others stand between stay apart, since operations keep their order: an Applier takes several batches
// of one model in a page.
func compact(page protocol.Page) protocol.Page {
	same := func(a, b *sdk.Batch) bool {
		return a.Model == b.Model && a.Version == b.Version && slices.Equal(a.Columns, b.Columns)
	}
	joined := page.Batches[:0:0]
	for i := 0; i < len(page.Batches); {
		end, size := i+1, len(page.Batches[i].Rows)
		for end < len(page.Batches) && same(&page.Batches[i], &page.Batches[end]) {
			size += len(page.Batches[end].Rows)
			end++
		}
		batch := page.Batches[i]
		if end > i+1 {
			batch.Rows = make([]byte, 0, size)
			batch.Count = 0
			for _, b := range page.Batches[i:end] {
				batch.Rows = append(batch.Rows, b.Rows...)
				batch.Count += b.Count
			}
		}
		joined = append(joined, batch)
		i = end
	}
	page.Batches = joined
	return page
}
