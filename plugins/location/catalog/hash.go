package catalog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/starling-sync/starling/plugins/location/catalog/content"
	"github.com/starling-sync/starling/plugins/location/catalog/disk"
	"github.com/starling-sync/starling/sdk"
)

// When what was found out is committed: rather soon, and rather many at once.
const (
	hashBatch = 256
	hashDelay = 2 * time.Second // unless the options say otherwise
)

// hasher finds out what the files of one location hold: of each disk one file at a time, so fast and no faster as the options
// say, and not at all while a location on that disk is being read. A location that is slow, or hangs, keeps nothing from those
// on other disks. What is to be done it is told by the readings, which see the
// entries anyway; a file that changed a moment ago waits, since it may change again within the same tick of its clock.
// What was found out is committed only if the entry still says of the file what the file said of itself before and after.
//
// A nil *hasher has nothing to do.
type hasher struct {
	tree    *tree
	host    sdk.SourceHost
	options Options
	disks   *disks
	wake    chan struct{}           // holds a value after something below changed
	results map[sdk.RecordID]result // not committed yet; run's own
	since   time.Time               // when the first of results came
	ahead   int64                   // bytes read of the files of results, and of the one that is being read; run's own
	shown   progress                // what was said last of how far it is; run's own
	said    time.Time               // when

	mu     sync.Mutex
	disk   *pace // that the location is on; nil until it has been looked at
	ready  []task
	later  []task // by their time
	queued map[sdk.RecordID]struct{}
	files  map[sdk.RecordID]counted // by folder
	sum    counted                  // of files
	failed map[sdk.RecordID]failure // by folder
}

// task is a folder in which there may be files to read, and when to look.
type task struct {
	id  sdk.RecordID
	due time.Time
}

// counted is how many files there are, and of how many of them nobody knows what they hold; and both in the bytes that are read to
// find it out.
type counted struct {
	files, unknown int64
	bytes, unread  int64
}

// add counts a file of which bytes are to be read, or were.
func (c *counted) add(bytes int64, known bool) {
	c.files++
	c.bytes += bytes
	if !known {
		c.unknown++
		c.unread += bytes
	}
}

// progress is of how many files it is known what they hold, and how much of them has been read.
type progress struct{ files, bytes amount }

type amount struct{ done, all int64 }

// result is what a file held that was as info says.
type result struct {
	info disk.Info
	name string
}

// failure says of how many files of a folder nothing could be found out, with the bytes that were to be read, and why of one.
type failure struct {
	count  int
	bytes  int64
	reason error
}

func newHasher(t *tree, disks *disks) *hasher {
	return &hasher{
		tree: t, host: t.host, options: t.options, disks: disks, wake: make(chan struct{}, 1), results: map[sdk.RecordID]result{},
		queued: map[sdk.RecordID]struct{}{}, files: map[sdk.RecordID]counted{}, failed: map[sdk.RecordID]failure{},
	}
}

// hashed is the column of the entry model that is written here alone.
type hashed struct {
	sdk.Owned
	ContentHash string `starling:"content_hash"`
}

func hashedModel() sdk.Model[hashed] { return sdk.Model[hashed]{Name: "entry", Version: 2} }

// note tells of the files of a folder, and has the hasher look into it where there are some of which nothing is known. Its
// entries are durable when the reading of the location ends.
func (h *hasher) note(folder sdk.RecordID, n counted) {
	if h == nil {
		return
	}
	h.count(folder, n)
	if n.unknown > 0 {
		h.queue(folder, time.Time{})
	}
}

// forget drops a folder that is not a part of the location any more.
func (h *hasher) forget(folder sdk.RecordID) {
	if h == nil {
		return
	}
	h.count(folder, counted{})
	h.mu.Lock()
	delete(h.failed, folder)
	h.mu.Unlock()
}

func (h *hasher) count(folder sdk.RecordID, n counted) {
	h.mu.Lock()
	defer h.mu.Unlock()
	was := h.files[folder]
	h.sum.files += n.files - was.files
	h.sum.unknown += n.unknown - was.unknown
	h.sum.bytes += n.bytes - was.bytes
	h.sum.unread += n.unread - was.unread
	if h.files[folder] = n; n == (counted{}) {
		delete(h.files, folder)
	}
	h.signal()
}

func (h *hasher) queue(folder sdk.RecordID, due time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, known := h.queued[folder]; known {
		return
	}
	h.queued[folder] = struct{}{}
	h.options.Metrics.HashQueue.Set(float64(len(h.queued)))
	if due.IsZero() {
		h.ready = append(h.ready, task{folder, due})
	} else {
		h.later = append(h.later, task{folder, due}) // all wait equally long, so that they stay in order
	}
	h.signal()
}

func (h *hasher) signal() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// begin keeps the hasher from the location until end. It may block while a few results are committed.
func (h *hasher) begin() {
	if h != nil {
		h.tree.turn.Lock()
	}
}

func (h *hasher) end() {
	if h != nil {
		h.tree.turn.Unlock()
	}
}

// reading keeps all hashers from the disk that the location is on until done is called. Where disks have no numbers,
// volume tells them apart.
func (h *hasher) reading(device int64, volume string) (done func()) {
	if h == nil {
		return func() {}
	}
	p := h.disks.of(device, volume)
	h.mu.Lock()
	h.disk = p
	h.mu.Unlock()
	p.change(1)
	return func() { p.change(-1) }
}

// leave takes the location from the hasher, which does nothing more for it.
func (h *hasher) leave() {
	if h == nil {
		return
	}
	h.tree.turn.Lock()
	h.tree.ended = true
	h.tree.turn.Unlock()
}

// run works until ctx ends. Its error is the host's.
func (h *hasher) run(ctx context.Context) error {
	defer func() {
		last := h.shown // nothing more is to come
		last.files.done, last.bytes.done = last.files.all, last.bytes.all
		h.say(last)
	}()
	for ctx.Err() == nil {
		job, wait := h.take(h.options.now())
		if len(h.results) > 0 && (job == nil || len(h.results) >= hashBatch || h.options.now().Sub(h.since) > h.options.hashDelay) {
			if err := h.flush(ctx); err != nil {
				return err
			}
		}
		h.show(job == nil)
		if job != nil {
			if err := h.look(ctx, job); err != nil {
				return err
			}
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-h.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// take returns the next folder to look into, or nil and how long there is none.
func (h *hasher) take(now time.Time) (job *task, wait time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.later) > 0 && !h.later[0].due.After(now) {
		h.ready = append(h.ready, h.later[0])
		h.later = h.later[1:]
	}
	switch {
	case len(h.ready) > 0:
		job = &h.ready[0]
		h.ready = h.ready[1:]
		delete(h.queued, job.id)
		h.options.Metrics.HashQueue.Set(float64(len(h.queued)))
		return job, 0
	case len(h.later) > 0:
		return nil, h.later[0].due.Sub(now)
	}
	return nil, time.Hour
}

// look reads the files of a folder that nobody has read yet.
func (h *hasher) look(ctx context.Context, job *task) error {
	dir := h.open(job)
	if dir == nil {
		return nil
	}
	defer dir.Close()
	entries, err := findEntries(ctx, h.host, "parent_id", []any{job.id})
	if err != nil {
		return fmt.Errorf("find files to read: %w", err)
	}
	var failed failure
	later := false
	for i := range entries {
		e := &entries[i]
		if e.Kind != disk.File || e.ContentHash != nil {
			continue
		}
		if h.options.now().Sub(e.ModifiedAt).Abs() < h.options.Settle {
			later = true
			continue
		}
		name, err := h.read(ctx, dir, e)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // stopped, not failed
		case disk.Gone(err), errors.Is(err, content.ErrChanged): // the reading of the folder tells
		case err != nil:
			h.options.Metrics.HashFailures.Inc()
			failed = failure{failed.count + 1, failed.bytes + h.cost(e), fmt.Errorf("%s: %w", e.Name, reason(err))}
		default:
			h.options.Metrics.FilesHashed.Inc()
			if len(h.results) == 0 {
				h.since = h.options.now()
			}
			h.results[e.ID] = result{e.info(), name}
		}
		if len(h.results) >= hashBatch || len(h.results) > 0 && h.options.now().Sub(h.since) > h.options.hashDelay { // a folder may take hours
			if err := h.flush(ctx); err != nil {
				return err
			}
		}
		h.show(false)
	}
	h.report(job, failed)
	if later {
		h.queue(job.id, h.options.now().Add(h.options.Settle))
	}
	return nil
}

// open opens the folder of job; nil if it is not there, or not a part of the location, any more.
func (h *hasher) open(job *task) disk.Dir {
	t := h.tree
	t.turn.Lock()
	defer t.turn.Unlock()
	f := t.byID[job.id]
	if f == nil || t.ended {
		return nil
	}
	dir, _, err := t.open(f)
	if err != nil {
		return nil // the reading of the location says so too
	}
	return dir
}

// cost is how many bytes are read to find out what the file of e holds.
func (h *hasher) cost(e *Entry) int64 { return content.Bytes(e.Size, h.options.HashWhole) }

// read returns the name of what the file of e holds, or content.ErrChanged where the file is not as e says. What it read of one
// of which it could not be found out counts for nothing.
func (h *hasher) read(ctx context.Context, dir disk.Dir, e *Entry) (name string, err error) {
	before := h.ahead
	defer func() {
		if err != nil {
			h.ahead = before
		}
	}()
	h.mu.Lock()
	pace := h.disk
	h.mu.Unlock()
	if err := pace.begin(ctx); err != nil {
		return "", err
	}
	defer pace.end()
	file, err := dir.Open(disk.Unescape(e.Name))
	if err != nil {
		return "", err
	}
	defer file.Close()
	as := func() error {
		info, err := file.Stat()
		if err == nil && !sameContent(e.info(), info) {
			err = content.ErrChanged
		}
		return err
	}
	if err := as(); err != nil {
		return "", err
	}
	name, err = content.Name(file, e.Size, h.options.HashWhole, func(bytes int) error {
		h.show(false) // of what has been read before these
		h.options.Metrics.BytesHashed.Add(float64(bytes))
		h.ahead += int64(bytes)
		return pace.rest(ctx, bytes, h.options.HashRate)
	})
	if err == nil {
		err = as()
	}
	return name, err
}

// flush commits what was found out, as far as it still holds.
func (h *hasher) flush(ctx context.Context) error {
	results := h.results
	h.results, h.ahead = map[sdk.RecordID]result{}, 0
	if err := h.commit(ctx, results); err != nil && ctx.Err() == nil {
		return fmt.Errorf("commit what files hold: %w", err)
	}
	return nil
}

// commit writes results. While it does, no reading of the location changes its entries.
func (h *hasher) commit(ctx context.Context, results map[sdk.RecordID]result) error {
	t := h.tree
	t.turn.Lock()
	defer t.turn.Unlock()
	if t.ended {
		return nil
	}
	ids := make([]sdk.RecordID, 0, len(results))
	for id := range results {
		ids = append(ids, id)
	}
	entries, err := findEntries(ctx, h.host, "id", idValues(ids))
	if err != nil {
		return err
	}
	packer, err := hashedModel().Packer()
	if err != nil {
		return err
	}
	found := map[sdk.RecordID]counted{} // by folder
	for i := range entries {
		e := &entries[i]
		if r := results[e.ID]; e.ContentHash == nil && sameContent(e.info(), r.info) {
			packer.Put(&hashed{Owned: sdk.Owned{ID: e.ID}, ContentHash: r.name})
			now := found[e.Parent.ID()]
			now.add(h.cost(e), true)
			found[e.Parent.ID()] = now
		}
	}
	if packer.Len() == 0 {
		return nil
	}
	refused, err := h.host.Commit(ctx, packer.Batch())
	for _, refusal := range refused {
		t.refuse(refusal)
	}
	if err != nil {
		return err
	}
	for folder, n := range found {
		h.mu.Lock()
		now := h.files[folder]
		h.mu.Unlock()
		now.unknown, now.unread = max(0, now.unknown-n.files), max(0, now.unread-n.bytes)
		h.count(folder, now) // nobody else counts in the hasher's turn
	}
	return nil
}

// key is what people know the progress by.
func (h *hasher) key() string { return "hashing " + h.tree.path }

// show says of how many files it is known what they hold, of those that can be read, and how much of them has been read: now, or
// a second after it was said last.
func (h *hasher) show(now bool) {
	if !now && h.options.now().Sub(h.said) < time.Second {
		return
	}
	h.mu.Lock()
	next := progress{amount{h.sum.files - h.sum.unknown, h.sum.files}, amount{h.sum.bytes - h.sum.unread + h.ahead, h.sum.bytes}}
	for _, f := range h.failed {
		next.files.all -= int64(f.count)
		next.bytes.all -= f.bytes
	}
	h.mu.Unlock()
	next.bytes.done = min(next.bytes.done, next.bytes.all) // a file may shrink while it is read
	h.say(next)
}

// say tells people how far it is, unless they know. Files come last: a host that knows no units shows what it is told last.
func (h *hasher) say(next progress) {
	if next == h.shown {
		return
	}
	bytes := next.bytes.all > 0 || h.shown.bytes.all > 0 // or there is nothing to read in any file
	h.shown, h.said = next, h.options.now()
	if bytes {
		h.host.Progress(sdk.Progress{Key: h.key(), Unit: sdk.UnitBytes, Done: next.bytes.done, Total: next.bytes.all})
	}
	h.host.Progress(sdk.Progress{Key: h.key(), Unit: sdk.UnitFiles, Done: next.files.done, Total: next.files.all})
}

// report warns of the files that could not be read, until their folder is looked into again.
func (h *hasher) report(job *task, now failure) {
	count, message, changed := h.tally(job, now)
	if !changed {
		return
	}
	h.tree.turn.Lock()
	defer h.tree.turn.Unlock()
	if !h.tree.ended {
		h.tree.warn("content", count, message)
	}
}

// tally notes how it went in a folder, and returns what there is to warn of in its location. It holds mu, under which
// nobody waits for a tree's turn.
func (h *hasher) tally(job *task, now failure) (count int, message string, changed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failed[job.id].count == 0 && now.count == 0 {
		return 0, "", false
	}
	h.failed[job.id] = now
	if now.count == 0 {
		delete(h.failed, job.id)
	}
	why := now.reason
	for _, f := range h.failed {
		count += f.count
		if why == nil {
			why = f.reason
		}
	}
	if count > 0 {
		message = fmt.Sprintf("%s: what %d files hold is not known, since they can not be read: %v", h.tree.path, count, why)
	}
	return count, message, true
}
