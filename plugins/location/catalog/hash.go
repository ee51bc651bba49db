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
	hashDelay = 2 * time.Second
)

// hasher finds out what files hold, for all locations of one Run: one file at a time, so fast and no faster as the options
// say, and not at all while any location is being read. What is to be done it is told by the readings, which see the
// entries anyway; a file that changed a moment ago waits, since it may change again within the same tick of its clock.
// What was found out is committed only if the entry still says of the file what the file said of itself before and after.
//
// A nil *hasher has nothing to do.
type hasher struct {
	host    sdk.SourceHost
	options Options
	wake    chan struct{} // holds a value after something below changed
	next    time.Time     // when the next piece may be read; run's own
	results []result      // not committed yet; run's own
	since   time.Time     // when the first of results came

	mu      sync.Mutex
	reading int // locations that are being read now
	ready   []task
	later   []task // by their time
	queued  map[folderOf]struct{}
	failed  map[*tree]map[sdk.RecordID]failure // by folder
}

// folderOf names a folder of a location that is being catalogued.
type folderOf struct {
	tree *tree
	id   sdk.RecordID
}

// task is a folder in which there may be files to read, and when to look.
type task struct {
	folderOf
	due time.Time
}

// result is what a file held that was as info says.
type result struct {
	tree *tree
	id   sdk.RecordID
	info disk.Info
	name string
}

// failure says of how many files of a folder nothing could be found out, and why of one.
type failure struct {
	count  int
	reason error
}

func newHasher(host sdk.SourceHost, options Options) *hasher {
	return &hasher{
		host: host, options: options, wake: make(chan struct{}, 1),
		queued: map[folderOf]struct{}{}, failed: map[*tree]map[sdk.RecordID]failure{},
	}
}

// hashed is the column of the entry model that is written here alone.
type hashed struct {
	sdk.Owned
	ContentHash string `starling:"content_hash"`
}

func hashedModel() sdk.Model[hashed] { return sdk.Model[hashed]{Name: "entry", Version: 2} }

// note has the hasher look into a folder of t. Its entries are durable when the reading of t ends.
func (h *hasher) note(t *tree, folder sdk.RecordID) {
	if h != nil {
		h.queue(folderOf{t, folder}, time.Time{})
	}
}

func (h *hasher) queue(f folderOf, due time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, known := h.queued[f]; known {
		return
	}
	h.queued[f] = struct{}{}
	if due.IsZero() {
		h.ready = append(h.ready, task{f, due})
	} else {
		h.later = append(h.later, task{f, due}) // all wait equally long, so that they stay in order
	}
	h.signal()
}

func (h *hasher) signal() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// begin keeps the hasher from reading, and from t. It may block while a few results of t are committed.
func (h *hasher) begin(t *tree) {
	if h == nil {
		return
	}
	h.mu.Lock()
	h.reading++
	h.mu.Unlock()
	t.turn.Lock()
}

func (h *hasher) end(t *tree) {
	if h == nil {
		return
	}
	t.turn.Unlock()
	h.mu.Lock()
	h.reading--
	h.signal()
	h.mu.Unlock()
}

// leave takes t from the hasher, which does nothing more for it.
func (h *hasher) leave(t *tree) {
	if h == nil {
		return
	}
	t.turn.Lock()
	t.ended = true
	t.turn.Unlock()
	h.mu.Lock()
	delete(h.failed, t)
	h.mu.Unlock()
}

// run works until ctx ends. Its error is the host's.
func (h *hasher) run(ctx context.Context) error {
	for ctx.Err() == nil {
		job, wait := h.take(time.Now())
		if len(h.results) > 0 && (job == nil || len(h.results) >= hashBatch || time.Since(h.since) > hashDelay) {
			if err := h.flush(ctx); err != nil {
				return err
			}
		}
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
	case h.reading > 0:
		return nil, time.Hour
	case len(h.ready) > 0:
		job = &h.ready[0]
		h.ready = h.ready[1:]
		delete(h.queued, job.folderOf)
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
		if time.Since(e.ModifiedAt).Abs() < h.options.Settle {
			later = true
			continue
		}
		name, err := h.read(ctx, dir, e)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // stopped, not failed
		case disk.Gone(err), errors.Is(err, content.ErrChanged): // the reading of the folder tells
		case err != nil:
			failed = failure{failed.count + 1, fmt.Errorf("%s: %w", e.Name, reason(err))}
		default:
			if len(h.results) == 0 {
				h.since = time.Now()
			}
			h.results = append(h.results, result{job.tree, e.ID, e.info(), name})
		}
		if len(h.results) >= hashBatch {
			if err := h.flush(ctx); err != nil {
				return err
			}
		}
	}
	h.report(job, failed)
	if later {
		h.queue(job.folderOf, time.Now().Add(h.options.Settle))
	}
	return nil
}

// open opens the folder of job; nil if it is not there, or not a part of the location, any more.
func (h *hasher) open(job *task) disk.Dir {
	job.tree.turn.Lock()
	defer job.tree.turn.Unlock()
	f := job.tree.byID[job.id]
	if f == nil || job.tree.ended {
		return nil
	}
	dir, _, err := job.tree.open(f)
	if err != nil {
		return nil // the reading of the location says so too
	}
	return dir
}

// read returns the name of what the file of e holds, or content.ErrChanged where the file is not as e says.
func (h *hasher) read(ctx context.Context, dir disk.Dir, e *Entry) (string, error) {
	if err := h.rest(ctx, 0); err != nil {
		return "", err
	}
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
	name, err := content.Name(file, e.Size, h.options.HashWhole, func(bytes int) error { return h.rest(ctx, bytes) })
	if err == nil {
		err = as()
	}
	return name, err
}

// rest blocks until no location is being read, and so many bytes more may be read.
func (h *hasher) rest(ctx context.Context, bytes int) error {
	for {
		h.mu.Lock()
		reading := h.reading
		h.mu.Unlock()
		if reading == 0 {
			break
		}
		select {
		case <-h.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if h.options.HashRate > 0 && bytes > 0 {
		now := time.Now()
		if h.next.Before(now) {
			h.next = now
		}
		wait(ctx, h.next.Sub(now))
		h.next = h.next.Add(time.Duration(bytes) * time.Second / time.Duration(h.options.HashRate))
	}
	return ctx.Err()
}

// flush commits what was found out, as far as it still holds.
func (h *hasher) flush(ctx context.Context) error {
	byTree := map[*tree]map[sdk.RecordID]result{}
	for _, r := range h.results {
		if byTree[r.tree] == nil {
			byTree[r.tree] = map[sdk.RecordID]result{}
		}
		byTree[r.tree][r.id] = r
	}
	h.results = nil
	for t, results := range byTree {
		if err := h.commit(ctx, t, results); err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // stopped, not failed
			}
			return fmt.Errorf("commit what files hold: %w", err)
		}
	}
	return nil
}

// commit writes results of one location. While it does, no reading of that location changes its entries.
func (h *hasher) commit(ctx context.Context, t *tree, results map[sdk.RecordID]result) error {
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
	for i := range entries {
		e := &entries[i]
		if r := results[e.ID]; e.ContentHash == nil && sameContent(e.info(), r.info) {
			packer.Put(&hashed{Owned: sdk.Owned{ID: e.ID}, ContentHash: r.name})
		}
	}
	if packer.Len() == 0 {
		return nil
	}
	refused, err := h.host.Commit(ctx, packer.Batch())
	for _, refusal := range refused {
		t.refuse(refusal)
	}
	return err
}

// report warns of the files that could not be read, until their folder is looked into again.
func (h *hasher) report(job *task, now failure) {
	count, message, changed := h.tally(job, now)
	if !changed {
		return
	}
	job.tree.turn.Lock()
	defer job.tree.turn.Unlock()
	if !job.tree.ended {
		job.tree.warn("content", count, message)
	}
}

// tally notes how it went in a folder, and returns what there is to warn of in its location. It holds mu, under which
// nobody waits for a tree's turn.
func (h *hasher) tally(job *task, now failure) (count int, message string, changed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	folders := h.failed[job.tree]
	if folders[job.id].count == 0 && now.count == 0 {
		return 0, "", false
	}
	if folders == nil {
		folders = map[sdk.RecordID]failure{}
		h.failed[job.tree] = folders
	}
	folders[job.id] = now
	if now.count == 0 {
		delete(folders, job.id)
	}
	why := now.reason
	for _, f := range folders {
		count += f.count
		if why == nil {
			why = f.reason
		}
	}
	if count > 0 {
		message = fmt.Sprintf("%s: what %d files hold is not known, since they can not be read: %v", job.tree.path, count, why)
	}
	return count, message, true
}
