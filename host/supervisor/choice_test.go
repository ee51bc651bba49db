//go:build unix

package supervisor

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestSupervisor_HostKilledInSwap kills the host at the end of each stage of a swap: to a build that dies a second after its
// start, and to one that is kept. The host that follows runs the old build until the choice of the new one is durable, and
// the new one from then on, which is before the host of the first was told that it may make its tables fit it.
func TestSupervisor_HostKilledInSwap(t *testing.T) {
	for _, each := range []struct {
		at   Stage
		to   string
		kept bool
	}{
		{Staging, "crash-later", false}, {Probing, "crash-later", false}, {Switching, "crash-later", false}, {Draining, "crash-later", false},
		{Undone, "crash-later", false}, {Watching, "note.2", false}, {chosen, "note.2", true}, {Settling, "note.2", true}, {Done, "note.2", true},
	} {
		for _, inPlace := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s in place %t", each.at, inPlace), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				first, second := build(t, "note"), build(t, each.to)
				configured := filepath.Join(dir, "note")
				copyFile(t, configured, first)
				host := exec.CommandContext(t.Context(), os.Args[0]) //nolint:gosec // this binary
				host.Env = append(os.Environ(), envHost+"="+dir, envSwap+"="+second, envStop+"="+string(each.at))
				out, err := host.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if inPlace { // the build lies where it is configured by the time of the swap
					host.Env = append(host.Env, envSwap+"="+configured, envReplace+"="+second)
				}
				if err := host.Start(); err != nil {
					t.Fatal(err)
				}
				lines := bufio.NewScanner(out)
				for lines.Scan() && lines.Text() != stopsHere {
				}
				_ = host.Process.Kill()
				_, _ = io.Copy(io.Discard, out)
				_ = host.Wait()
				want, err := hashOf(first)
				if each.kept {
					want, err = hashOf(second)
				}
				if err != nil {
					t.Fatal(err)
				}
				w := newWatcher()
				s, _ := run(t, options(t, dir, w), Spec{Name: "note", Path: configured})
				p := receive(t, w.up, "up")
				if err := s.Settled(t.Context()); err != nil {
					t.Fatal(err)
				}
				if st := s.Status()[0]; lines.Text() != stopsHere || st.SHA256 != want || st.PID != p.PID {
					t.Errorf("status %+v, want the build %s", st, want)
				}
			})
		}
	}
}

// TestSupervisor_RemembersBuild restarts the host after a swap to another path, and after one that failed.
func TestSupervisor_RemembersBuild(t *testing.T) {
	dir := t.TempDir()
	configured := filepath.Join(dir, "note")
	first, second := build(t, "note.1"), build(t, "note.2")
	copyFile(t, configured, first)
	spec := Spec{Name: "note", Path: configured}
	sums := map[string]string{}
	for _, path := range []string{first, second} {
		sum, err := hashOf(path)
		if err != nil {
			t.Fatal(err)
		}
		sums[path] = sum
	}
	life := func(spec Spec, want string, do func(s *Supervisor)) {
		t.Helper()
		w := newWatcher()
		s, stop := run(t, options(t, dir, w), spec)
		receive(t, w.up, "up")
		if err := s.Settled(t.Context()); err != nil {
			t.Fatal(err)
		}
		if st := s.Status()[0]; st.SHA256 != sums[want] {
			t.Errorf("it runs %s from %s, want %s", st.SHA256, st.Path, sums[want])
		}
		if do != nil {
			do(s)
		}
		stop()
	}
	life(spec, first, func(s *Supervisor) {
		if err := s.Swap(t.Context(), Swap{Name: "note", Path: second}, nothing); err != nil {
			t.Fatal(err)
		}
	})
	life(spec, second, func(s *Supervisor) {
		if err := s.Swap(t.Context(), Swap{Name: "note", Path: build(t, "crash-later"), Soak: patience}, nothing); err == nil {
			t.Error("the bad build was kept")
		}
	})
	life(spec, second, nil)
	moved := spec
	moved.Path = filepath.Join(dir, "moved") // the operator's word counts more
	copyFile(t, moved.Path, first)
	life(moved, first, nil)
	moved.SHA256 = sums[first]
	life(moved, first, func(s *Supervisor) {
		if err := s.Swap(t.Context(), Swap{Name: "note", Path: second}, nothing); err == nil {
			t.Error("a build was let in whose checksum is not the one that is configured")
		}
	})
}
