package catalog

import (
	"context"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/starling-sync/starling/plugins/location/catalog/disk"
	"github.com/starling-sync/starling/sdk"
)

// Location is a folder that this device catalogues. It is written by people alone: how far the catalogue is goes
// through SourceHost.Progress, since a record that changes with every file would travel with every file.
type Location struct {
	sdk.Owned
	Path string `starling:"path,required" doc:"the folder, absolute"`
	Name string `starling:"name" doc:"what people call it"`

	// Volume is found out by the catalogue. It is weak, so that a location is visible where nobody catalogues volumes.
	Volume sdk.Ref `starling:"volume_id,ref=volume,weak" doc:"the disk that the folder was on when it was last seen; none where that is not known"`
}

// Entry is what the catalogue writes of one name: the columns of the entry model, which another plugin serves.
type Entry struct {
	sdk.Owned
	Name        string    `starling:"name,required"`
	Extension   string    `starling:"extension"`
	Kind        string    `starling:"kind,required"`
	Size        int64     `starling:"size"`
	ModifiedAt  time.Time `starling:"modified_at"`
	CreatedAt   time.Time `starling:"created_at"`
	Permissions int64     `starling:"permissions"`
	Inode       int64     `starling:"inode,index"`
	Device      int64     `starling:"device_number"`
	Parent      sdk.Ref   `starling:"parent_id,ref=entry"`
	Location    sdk.Ref   `starling:"location_id,ref=location,weak,required"`
	ContentHash *string   `starling:"content_hash"`
}

// The models that the catalogue reads and writes, as it knows them.
func locationModel() sdk.Model[Location] { return sdk.Model[Location]{Name: "location", Version: 2} }
func entryModel() sdk.Model[Entry]       { return sdk.Model[Entry]{Name: "entry", Version: 2} }

// RootID returns the id of the entry that stands for location's folder itself.
func RootID(location sdk.RecordID) sdk.RecordID {
	return sdk.RecordID(uuid.NewSHA1(uuid.UUID(location), []byte("root")))
}

// set takes over what the disk says. What the content was is not known any more if the file may hold something else.
func (e *Entry) set(name string, info disk.Info) {
	if !sameContent(e.info(), info) {
		e.ContentHash = nil
	}
	e.Name, e.Extension, e.Kind = name, "", info.Kind
	if info.Kind == disk.File {
		e.Extension = extension(name)
	}
	e.Size, e.ModifiedAt, e.CreatedAt = info.Size, info.Modified, info.Created
	e.Permissions, e.Inode, e.Device = info.Permissions, info.Inode, info.Device
}

// sameContent reports whether a file that was before and is now still holds the same, as far as its size and times tell.
func sameContent(before, now disk.Info) bool {
	return before.Kind == disk.File && now.Kind == disk.File && before.Size == now.Size && before.Modified.Equal(now.Modified) &&
		(before.Inode == now.Inode || before.Inode == 0 || now.Inode == 0)
}

// info is the inverse of set.
func (e *Entry) info() disk.Info {
	return disk.Info{
		Kind: e.Kind, Size: e.Size, Modified: e.ModifiedAt, Created: e.CreatedAt,
		Permissions: e.Permissions, Inode: e.Inode, Device: e.Device,
	}
}

// sameAs reports whether e and other hold the same values, whatever their stamps.
func (e *Entry) sameAs(other *Entry) bool {
	return e.Name == other.Name && e.Extension == other.Extension && e.Kind == other.Kind && e.Size == other.Size &&
		e.ModifiedAt.Equal(other.ModifiedAt) && e.CreatedAt.Equal(other.CreatedAt) && e.Permissions == other.Permissions &&
		e.Inode == other.Inode && e.Device == other.Device && e.Parent == other.Parent && e.Location == other.Location &&
		(e.ContentHash == nil) == (other.ContentHash == nil) && (e.ContentHash == nil || *e.ContentHash == *other.ContentHash)
}

// extension returns what follows the last dot, in lower case; nothing for .profile.
func extension(name string) string {
	ext := filepath.Ext(name)
	if len(ext) == len(name) {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(ext, "."))
}

// findEntries returns this device's own entries in which field equals one of values.
func findEntries(ctx context.Context, host sdk.SourceHost, field string, values []any) ([]Entry, error) {
	batch, err := host.Find(ctx, "entry", field, values)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, 0, batch.Count)
	for entry, err := range entryModel().Rows(&batch) {
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

// findLocations returns this device's own locations.
func findLocations(ctx context.Context, host sdk.SourceHost) ([]Location, error) {
	batch, err := host.Find(ctx, "location", "id", nil)
	if err != nil {
		return nil, err
	}
	var locations []Location
	for location, err := range locationModel().Rows(&batch) {
		if err != nil {
			return nil, err
		}
		locations = append(locations, location)
	}
	return locations, nil
}

// writer gathers rows and commits them in order, one batch ahead of its caller. It serves one goroutine.
type writer struct {
	host    sdk.SourceHost
	packer  *sdk.Packer[Entry]
	limit   int // rows a batch
	pending chan error
	refused func(sdk.Refusal)
}

// maxBatchBytes keeps a batch within what the borders take at once.
const maxBatchBytes = 512 << 10

func newWriter(host sdk.SourceHost, limit int, refused func(sdk.Refusal)) (*writer, error) {
	packer, err := entryModel().Packer()
	return &writer{host: host, packer: packer, limit: limit, refused: refused}, err
}

func (w *writer) put(ctx context.Context, entry *Entry) error {
	w.packer.Put(entry)
	return w.cut(ctx)
}

func (w *writer) remove(ctx context.Context, id sdk.RecordID) error {
	w.packer.Delete(id)
	return w.cut(ctx)
}

func (w *writer) cut(ctx context.Context) error {
	if w.packer.Len() < w.limit && w.packer.Size() < maxBatchBytes {
		return nil
	}
	return w.begin(ctx)
}

// begin starts to commit what was gathered, after the batch before it.
func (w *writer) begin(ctx context.Context) error {
	if err := w.wait(); err != nil || w.packer.Len() == 0 {
		return err
	}
	batch, done := w.packer.Batch(), make(chan error, 1)
	w.pending = done
	go func() {
		refusals, err := w.host.Commit(ctx, batch)
		for _, refusal := range refusals {
			w.refused(refusal)
		}
		done <- err
	}()
	return nil
}

// wait returns when the batch under way is durable.
func (w *writer) wait() error {
	if w.pending == nil {
		return nil
	}
	err := <-w.pending
	w.pending = nil
	return err
}

// flush returns when everything gathered is durable.
func (w *writer) flush(ctx context.Context) error {
	if err := w.begin(ctx); err != nil {
		return err
	}
	return w.wait()
}
