package supervisor

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/starling-sync/starling/sdk"
)

// choices remembers, over restarts of the host, which build of each plugin is in use: in one file of the store. A swap is
// written down before its build is tried, and again when it has proved itself, before the host makes its tables fit it: a
// host which is killed at any moment starts with a build that works and that its tables fit.
type choices struct {
	path string

	// starting is held for reading by who has staged a build and has not started it or written it down yet: none goes meanwhile.
	starting sync.RWMutex

	mu  sync.Mutex
	all map[string]choice
}

// choice is what is remembered of one plugin. A choice counts as long as the configuration names the same path, but Paused, which
// counts until somebody wants otherwise.
type choice struct {
	Source  string   `json:"source"`            // the path that was configured
	Running pick     `json:"running"`           // the build in use: the last one that proved itself, or was started with none to go back to
	Before  pick     `json:"before,omitzero"`   // the one before it; empty: none is known
	Trying  string   `json:"trying,omitempty"`  // SHA-256 of a build that has not proved itself yet
	Refused []string `json:"refused,omitempty"` // SHA-256 of builds that failed; len <= maxRefused
	Staged  []pick   `json:"staged,omitempty"`  // builds that have been started and probed, the last one last; len <= maxStaged
	Paused  string   `json:"paused,omitempty"`  // why it is not to run; empty: it is to run
	Passed  string   `json:"passed,omitempty"`  // why the build at Source was not started; empty: it was, or a swap wanted another

	Why map[string]string `json:"why,omitempty"` // what was wrong with each of Refused; those of older hosts have none
}

// pick is a build in the store.
type pick struct {
	SHA256 string `json:"sha256"`
	Path   string `json:"path"` // where it was taken from

	Version string `json:"version,omitempty"` // as it says itself
}

// What is remembered of a plugin at most; the oldest goes.
const (
	maxRefused = 8
	maxStaged  = 4 // the build in use and the one before may be among them
)

// openChoices reads what the store remembers. An unreadable file is put aside: the configuration is enough to start with.
func openChoices(store string) (*choices, error) {
	c, err := readChoices(store)
	if err != nil {
		return c, errors.Join(err, os.Rename(c.path, c.aside()))
	}
	return c, nil
}

// aside is where a file is put that can not be read. While it is there, it is not known which builds are wanted.
func (c *choices) aside() string { return c.path + ".damaged" }

// readChoices reads what the store remembers. After an error that is nothing.
func readChoices(store string) (*choices, error) {
	c := &choices{path: filepath.Join(store, "choices.json"), all: map[string]choice{}}
	text, err := os.ReadFile(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &c.all)
	}
	if err != nil {
		c.all = map[string]choice{}
	}
	return c, err
}

// Chosen returns the build that the store of a host remembers as the one in use of a plugin whose configured path is source,
// and whether there is one: it was started by the host, and its copy is there unharmed or can be made anew. The host may run or
// not. An error says that nobody knows, since what the store remembers can not be read.
func Chosen(store, name, source string) (_ Build, known bool, err error) {
	c, err := readChoices(store)
	if err != nil {
		remedy := "a host that starts puts it aside, and runs what is configured"
		if errors.Is(err, fs.ErrPermission) {
			remedy = "run this as the user that the host runs as"
		}
		return Build{}, false, sdk.Errorf(sdk.CodeInvalid, "it is not known which build is in use: %s can not be read: %w; %s", c.path, err, remedy)
	}
	remembered, same := c.get(name, source)
	b, there := remembered.Running.in(store)
	return Build{Version: remembered.Running.Version, SHA256: b.sum, Path: b.origin}, same && (there || remembered.Running.lies()), nil
}

// get returns what is remembered of a plugin, and whether that is of the build that is configured at source.
func (c *choices) get(name, source string) (remembered choice, same bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	remembered = c.all[name]
	return remembered, remembered.Source == source
}

// change has what is remembered of a plugin changed, durably. A choice for another source is forgotten first, but for the
// builds that are staged and those that failed, from wherever they are taken, and that it is not to run.
func (c *choices) change(name, source string, change func(*choice)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := c.all[name]
	if next.Source != source {
		next = choice{Source: source, Staged: next.Staged, Refused: next.Refused, Why: next.Why, Paused: next.Paused}
	}
	next.Refused, next.Staged, next.Why = slices.Clone(next.Refused), slices.Clone(next.Staged), maps.Clone(next.Why)
	change(&next)
	all := maps.Clone(c.all)
	all[name] = next
	if err := c.write(all); err != nil {
		return sdk.Errorf(sdk.CodeUnavailable, "remember the build of plugin %s: %w", name, err)
	}
	c.all = all
	return nil
}

// write replaces the file, so that it is the old one or the new one whenever the machine stops.
func (c *choices) write(all map[string]choice) error {
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(c.path), 0o700); err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(c.path), incoming+"*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(temp.Name()) }() // gone already if it was moved
	_, err = temp.Write(append(text, '\n'))
	if err = errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), c.path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(c.path))
}

// of returns what is remembered of a plugin, for put.
func (c *choices) of(name string) choice {
	remembered, _ := c.get(name, "")
	return remembered
}

// put has what is remembered of a plugin be as it was, durably.
func (c *choices) put(name string, was choice) error {
	return c.change(name, was.Source, func(c *choice) { *c = was })
}

// kept are the sums of the builds that a rollback or a restart may need.
func (c *choices) kept() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var sums []string
	for _, each := range c.all {
		sums = append(sums, each.Running.SHA256, each.Before.SHA256, each.Trying)
		for _, staged := range each.Staged {
			sums = append(sums, staged.SHA256)
		}
	}
	return sums
}

// discard removes a build from the store that nothing refers to any more. One that runs goes on running. While some plugin is being
// started, which may be from that build, it stays until the host starts next.
func (k *keeper) discard(sum string) {
	if sum == "" || !k.choices.starting.TryLock() {
		return
	}
	defer k.choices.starting.Unlock()
	if slices.Contains(k.choices.kept(), sum) {
		return
	}
	if err := os.RemoveAll(filepath.Join(k.options.StoreDir, "sha256", sum)); err != nil {
		k.log.Warn("an old build stays in the store", "sha256", sum, "reason", err)
	}
}

// use notes that a build is the one to run, and the one before is the way back.
func (c *choice) use(b pick) {
	if c.Running.SHA256 != b.SHA256 {
		c.Before, c.Passed = c.Running, ""
	}
	c.Running, c.Trying = b, ""
	c.stage(b)
	c.Refused = slices.DeleteFunc(c.Refused, func(sum string) bool { return sum == b.SHA256 })
	delete(c.Why, b.SHA256)
}

// stage notes that a build has been started and probed. It returns the sum of one that is not staged any more for it.
func (c *choice) stage(b pick) (gone string) {
	c.unstage(b.SHA256)
	c.Staged = append(c.Staged, b)
	if over := len(c.Staged) - maxStaged; over > 0 {
		gone = c.Staged[0].SHA256
		c.Staged = slices.Delete(c.Staged, 0, over)
	}
	return gone
}

func (c *choice) unstage(sum string) {
	c.Staged = slices.DeleteFunc(c.Staged, func(b pick) bool { return b.SHA256 == sum })
}

// failed notes that a build does not work, and why.
func (c *choice) failed(sum, why string) {
	c.Trying = ""
	c.unstage(sum)
	c.refuse(sum, why)
}

// refuse notes that a build is not started by itself, and why.
func (c *choice) refuse(sum, why string) {
	if sum == "" || sum == c.Running.SHA256 {
		return
	}
	if c.Why == nil {
		c.Why = map[string]string{}
	}
	c.Why[sum] = why
	if slices.Contains(c.Refused, sum) {
		return
	}
	c.Refused = append(c.Refused, sum)
	for len(c.Refused) > maxRefused {
		delete(c.Why, c.Refused[0])
		c.Refused = slices.Delete(c.Refused, 0, 1)
	}
}

// distrusts says why a build is not started by itself; empty: it may be.
func (c *choice) distrusts(sum string) string {
	switch {
	case sum == c.Running.SHA256:
		return ""
	case slices.Contains(c.Refused, sum):
		return cmp.Or(c.Why[sum], "it has failed before")
	case sum == c.Trying:
		return "it was not proved when the host ended"
	}
	return ""
}

func pickOf(g *generation) pick {
	return pick{SHA256: g.bin.sum, Path: g.bin.origin, Version: g.info.Version}
}

// versioned returns the build that goes by a version: what it says itself, with the v or without, or "sha256:" and the
// beginning of its checksum.
func (c *choice) versioned(name, version string) (pick, error) {
	var found []pick
	var there []string
	for _, b := range c.Staged {
		sum, bySum := strings.CutPrefix(version, "sha256:")
		if bySum && len(sum) >= 4 && strings.HasPrefix(b.SHA256, strings.ToLower(sum)) || !bySum && strings.TrimPrefix(b.Version, "v") == strings.TrimPrefix(version, "v") {
			found = append(found, b)
		}
		there = append(there, b.String())
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return pick{}, sdk.Errorf(sdk.CodeInvalid, "version %s of %s is that of %d builds in the store: %s and %s; say which by sha256: and the beginning of its checksum", version, name, len(found), found[0], found[1])
	case len(there) == 0:
		there = append(there, "none")
	}
	return pick{}, sdk.Errorf(sdk.CodeNotFound, "no build of %s in the store is of version %s; there are: %s; stage one with: starling plugin swap %s PATH --dry-run", name, version, strings.Join(there, ", "), name)
}

// String names a build for people.
func (p pick) String() string {
	return fmt.Sprintf("%s (sha256:%s)", cmp.Or(p.Version, "unknown"), p.SHA256[:min(12, len(p.SHA256))])
}

// in returns the build's copy in the store, and whether it is there unharmed.
func (p pick) in(store string) (binary, bool) {
	b := binary{sum: p.SHA256, origin: p.Path, path: filepath.Join(store, "sha256", p.SHA256, filepath.Base(p.Path))}
	return b, b.intact()
}

// again returns the build's copy in the store as in does. One that is not there unharmed is made anew, if the build lies where it
// was taken from still.
func (p pick) again(store string) (binary, bool) {
	b, there := p.in(store)
	if there || !p.lies() {
		return b, there
	}
	anew, err := stage(store, p.Path)
	return b, err == nil && anew == b
}

// inStore returns the copy in the store of the build that has a sum, if it is there.
func (c *choice) inStore(store, sum string) (binary, bool) {
	for _, b := range append(slices.Clone(c.Staged), c.Before) {
		if b.SHA256 == sum {
			if bin, there := b.again(store); there {
				return bin, true
			}
		}
	}
	return binary{}, false
}

// lies reports whether the build lies where it was taken from.
func (p pick) lies() bool {
	return p.SHA256 != "" && slices.Contains(sumsOf([]string{p.Path}), p.SHA256)
}

// passing is why the build that is configured is not the one to start; zero: it is, or a swap wanted another.
type passing struct {
	why string
	sum string // of the build that is passed over; empty: it is not known
}

// choose returns the build to start. fresh: whoever asks wants what lies at its path now, whatever is remembered.
func (k *keeper) choose(fresh bool) (bin binary, passed passing, err error) {
	spec := k.specNow()
	remembered, same := k.choices.get(k.name, spec.Path)
	running, there := remembered.Running.again(k.options.StoreDir)
	if !there && running.sum != "" {
		k.log.Warn("the configured build is started: the copy of the one that was in use is gone or damaged, and it does not lie where it was taken from", "sha256", running.sum, "copy", running.path, "path", running.origin)
	}
	if spec.SHA256 != "" && spec.SHA256 != running.sum {
		if bin, kept := remembered.inStore(k.options.StoreDir, spec.SHA256); kept {
			return bin, passed, nil
		}
	}
	if !there || spec.SHA256 != "" && spec.SHA256 != running.sum {
		bin, err = k.stage(&spec, spec.Path, spec.SHA256)
		return bin, passed, err
	}
	source := spec.Path
	elsewhere := same && running.origin != spec.Path
	swapped := elsewhere && remembered.Passed == "" // to another path
	if swapped {
		source = running.origin
	}
	if swapped && !fresh {
		return running, passed, nil
	}
	staged, err := k.stage(&spec, source, spec.SHA256)
	if err != nil {
		if elsewhere || spec.SHA256 != "" { // the store has the one that is wanted
			k.log.Warn("the build that is in use is started again, since it is not where it was taken from", "path", source, "reason", err)
			return running, passing{why: remembered.Passed}, nil
		}
		return binary{}, passed, err
	}
	why := remembered.distrusts(staged.sum)
	if why == "" || fresh && (remembered.Passed == "" || !elsewhere) {
		return staged, passed, nil
	}
	k.log.Warn("the build at its path is not started, but the last one that works", "path", source, "failed", staged.sum, "sha256", running.sum, "reason", why)
	return running, passing{why, staged.sum}, nil
}

// stage copies the binary at source into the store, and refuses one that has not the sum want, unless that is empty.
func (k *keeper) stage(spec *Spec, source, want string) (binary, error) {
	return stageAs(k.options.StoreDir, spec, source, want)
}

func stageAs(store string, spec *Spec, source, want string) (binary, error) {
	b, err := stage(store, source)
	if sdk.CodeOf(err) == sdk.CodeNotFound {
		remedy := "the path"
		if source == spec.Path {
			remedy = cmp.Or(spec.PathAt, remedy)
		}
		return binary{}, sdk.Errorf(sdk.CodeNotFound, "%w; build it, or correct %s", err, remedy)
	}
	if err != nil {
		return binary{}, err
	}
	if want != "" && want != b.sum {
		if want == spec.SHA256 && spec.SHA256At != "" {
			want += ", as " + spec.SHA256At + " says"
		}
		return binary{}, sdk.Errorf(sdk.CodeInvalid, "the binary at %s is not the one that is expected: its SHA-256 is %s, want %s; it was not run", source, b.sum, want)
	}
	return b, nil
}

func syncDir(dir string) error {
	if runtime.GOOS == "windows" { // which has no such thing
		return nil
	}
	f, err := os.Open(dir) //nolint:gosec // the store's
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
