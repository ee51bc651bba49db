// Package registry knows the models by name and turns changes into guarded writes.
//
// It promises that stored records depend only on the set of changes that arrived, not on their order or repetition; that
// only its owner changes a device-owned record; that model tables hold visible records only, so that they never have a
// dangling reference, while what is not visible waits in the shadow; and that plugins are called with no transaction
// and no lock held. A change that a model refuses is kept in a list with its reason and never stops the others. It leaves
// streams, watermarks and the log to package peerlog, which writes in the same transactions.
//
// Beside streams it reads and takes in ranges of records as they are (range.go, take.go), forgets what nobody needs any more
// (forget.go), and keeps digests by which devices find out that they hold the same (audit.go).
//
// A record is visible iff it exists and no record that it needs, directly or through others, is missing. Records that
// need one another in a ring are visible together: which of them came first must not matter. What a record carries along
// as it appears or disappears moves in the same transaction, whose length is therefore that of the longest such cascade.
package registry

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// Options say what a Registry works with.
type Options struct {
	DB   *database.DB
	Self sdk.DeviceID // this device
	Part sdk.PartID   // random, of this start of the device: what it adds to counters counts under it. Zero: New draws one
	Log  hclog.Logger // nil: none
}

// Registry holds the models of one database. Its methods may be called at once.
type Registry struct {
	db    *database.DB
	self  sdk.DeviceID
	part  sdk.PartID
	log   hclog.Logger
	feed  feed
	audit *audit

	catalog atomic.Pointer[catalog]

	defect atomic.Pointer[func(sdk.ModelName, error) bool] // see OnDefect

	adding sync.Mutex // held by who replaces catalog; never across a plugin call
}

// catalog is what is known of models at one time. It is not changed once it is published.
type catalog struct {
	models map[sdk.ModelName]*served
	order  []*served // a model after those that it refers to, where they make no ring
}

// served is a model with its table, and the server that decides on its changes.
type served struct {
	*model
	server sdk.ModelServer // nil: no plugin serves it now

	defect func(error) bool // tells OnDefect's; nil: nobody serves the model

	// changes counts attempts to write shared records of the model, and their commits: as long as it stands, what was
	// read before still holds.
	changes *atomic.Uint64
}

// New returns a registry with the models that the database has tables for; none is served yet.
func New(ctx context.Context, options Options) (*Registry, error) {
	r := &Registry{db: options.DB, self: options.Self, part: options.Part, log: options.Log, audit: newAudit()}
	if r.part == (sdk.PartID{}) {
		if _, err := rand.Read(r.part[:]); err != nil {
			return nil, fmt.Errorf("draw the name of this start: %w", err)
		}
	}
	if r.log == nil {
		r.log = hclog.NewNullLogger()
	}
	r.feed.watchers = make(map[*watcher]bool)
	models := make(map[sdk.ModelName]*served)
	err := r.db.Write(ctx, func(tx *database.Tx) error {
		known, err := storedDescriptions(tx)
		if err != nil {
			return err
		}
		if err := r.audit.takeKept(tx); err != nil {
			return err
		}
		for _, desc := range known {
			list, err := newModels(tx, *desc)
			if err != nil {
				return err
			}
			for _, m := range list {
				models[m.desc.Model] = &served{model: m, changes: new(atomic.Uint64)}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load models: %w", err)
	}
	r.catalog.Store(newCatalog(models))
	return r, nil
}

func storedDescriptions(tx *database.Tx) (map[sdk.ModelName]*sdk.Description, error) {
	known := make(map[sdk.ModelName]*sdk.Description)
	err := tx.Each("SELECT name, description FROM _model", nil, func(rows *sql.Rows) error {
		var name, text string
		if err := rows.Scan(&name, &text); err != nil {
			return err
		}
		desc := new(sdk.Description)
		if err := json.Unmarshal([]byte(text), desc); err != nil {
			return sdk.Errorf(sdk.CodeInternal, "the stored description of model %q is damaged: %w", name, err)
		}
		known[sdk.ModelName(name)] = desc
		return nil
	})
	return known, err
}

func newCatalog(models map[sdk.ModelName]*served) *catalog {
	c := &catalog{models: models}
	done := make(map[sdk.ModelName]bool)
	var visit func(s *served)
	visit = func(s *served) {
		if s == nil || done[s.desc.Model] {
			return
		}
		done[s.desc.Model] = true
		for _, ref := range s.refs {
			for _, to := range c.parts(ref.to) {
				visit(to)
			}
		}
		c.order = append(c.order, s)
	}
	for _, name := range slices.Sorted(maps.Keys(models)) {
		visit(models[name])
	}
	return c
}

// with returns a copy of c in which the models of list are these.
func (c *catalog) with(list ...*served) *catalog {
	models := maps.Clone(c.models)
	for _, s := range list {
		models[s.desc.Model] = s
	}
	return newCatalog(models)
}

// parts returns what a model is kept as: itself, or the two parts of a hybrid, the shared one first; none if it is not known.
// The part that devices own has no name that a caller may use.
func (c *catalog) parts(name sdk.ModelName) []*served {
	s := c.models[name]
	if s == nil || s.name != name {
		return nil
	}
	if s.hybrid == nil {
		return []*served{s}
	}
	var list []*served
	for _, part := range s.hybrid.Parts() {
		list = append(list, c.models[part.Model])
	}
	return list
}

// called returns the name that people know a model by: of a part of a hybrid model that of the whole.
func (c *catalog) called(name sdk.ModelName) sdk.ModelName {
	if s := c.models[name]; s != nil {
		return s.name
	}
	return name
}

// candidates are the models that a reference to a model ("": any) can mean.
func (c *catalog) candidates(to sdk.ModelName) []*served {
	if to == "" {
		return c.order
	}
	return c.parts(to)
}

// OnDefect has report called with what is wrong with an answer of a model's server that can not be used. It reports
// whether another server answers from now on: then the model is asked once more. It is called before anything else is, or
// not at all.
func (r *Registry) OnDefect(report func(model sdk.ModelName, why error) bool) {
	r.defect.Store(&report)
}

// reporter returns what tells of defects of a model.
func (r *Registry) reporter(model sdk.ModelName) func(error) bool {
	return func(why error) bool {
		report := r.defect.Load()
		return report != nil && (*report)(model, why)
	}
}

// Check returns why the table of a model can not serve desc, as Add would. It changes nothing.
func (r *Registry) Check(desc sdk.Description) error {
	if err := desc.Check(); err != nil {
		return err
	}
	if s := r.catalog.Load().models[desc.Model]; s != nil {
		return checkChange(&s.desc, &desc)
	}
	return nil
}

// Remove forgets the server of model: its records stay as they are, and changes to them wait until Add.
func (r *Registry) Remove(model sdk.ModelName) {
	r.adding.Lock()
	defer r.adding.Unlock()
	c := r.catalog.Load()
	var without []*served
	for _, s := range c.parts(model) {
		without = append(without, &served{model: s.model, changes: s.changes})
	}
	r.catalog.Store(c.with(without...))
}

// Descriptions returns the models that have a table here, served now or not, each after those that it refers to.
func (r *Registry) Descriptions() []sdk.Description {
	c := r.catalog.Load()
	all := make([]sdk.Description, 0, len(c.order))
	for _, s := range c.order {
		switch {
		case s.hybrid == nil:
			all = append(all, s.desc)
		case s.shared:
			all = append(all, *s.hybrid)
		}
	}
	return all
}

// Served reports whether a plugin serves model now.
func (r *Registry) Served(model sdk.ModelName) bool {
	s := r.catalog.Load().models[model]
	return s != nil && s.server != nil
}

// Description returns the description of model, and whether there is one.
func (r *Registry) Description(model sdk.ModelName) (sdk.Description, bool) {
	parts := r.catalog.Load().parts(model)
	switch {
	case parts == nil:
		return sdk.Description{}, false
	case parts[0].hybrid != nil:
		return *parts[0].hybrid, true
	}
	return parts[0].desc, true
}

// known returns what model is kept as, or a CodeUnknownModel error that names those that there are.
func (r *Registry) known(name sdk.ModelName) ([]*served, error) {
	c := r.catalog.Load()
	if list := c.parts(name); list != nil {
		return list, nil
	}
	var names []sdk.ModelName
	for _, s := range c.order {
		names = append(names, s.name)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	return nil, sdk.Errorf(sdk.CodeUnknownModel, "no plugin here serves the model %q; there are %v", name, names)
}
