package registry_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/sdk"
)

const crashDir = "STARLING_TEST_CRASH_DIR"

// TestMain runs the writer that TestCrash kills when it is started for that.
func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		crashWriter(dir)
		return
	}
	os.Exit(m.Run())
}

// crashWriter commits for ever, and prints each stamp once its commit is acknowledged.
func crashWriter(dir string) {
	t := &testing.T{}
	d := openDevice(t, database.Options{Dir: dir}, 1, files(), labels())
	ctx := context.Background()
	for i := 0; ; i++ {
		own, err := d.manager.CommitDeviceOwned(ctx, packed(t, files(), &File{Name: strconv.Itoa(i)}, &File{Name: strconv.Itoa(i) + " too"}))
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		fmt.Println(sdk.DeviceOwned, own.First, own.Last)
		shared, err := d.manager.CommitShared(ctx, packed(t, labels(), &Label{Name: strconv.Itoa(i)}))
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		fmt.Println(sdk.SharedByAll, shared.First, shared.Last)
	}
}

// TestCrash kills a writing process, and wants every acknowledged commit to be there, whole, and rows, log, watermark and
// clock to agree.
func TestCrash(t *testing.T) {
	dir := t.TempDir()
	acknowledged := make(map[sdk.Ownership]hlc.Stamp)
	for _, lines := range []int{3, 20, 51} {
		kill(t, dir, lines, acknowledged)
		d := openDevice(t, database.Options{Dir: dir}, 1, files(), labels())
		vector := d.vector()
		seen := 0
		for _, kind := range []sdk.Ownership{sdk.DeviceOwned, sdk.SharedByAll} {
			stream := history.Stream{Origin: d.id, Kind: kind}
			p, _ := d.read(stream, 0, 1<<30)
			if p.through != vector[stream] || p.through < acknowledged[kind] {
				t.Errorf("%s: the stream ends at %s, its watermark is %s, acknowledged was %s", kind, p.through, vector[stream], acknowledged[kind])
			}
			for _, batch := range p.batches {
				seen += batch.Count
				if kind == sdk.DeviceOwned && batch.Count%2 != 0 {
					t.Errorf("%d rows: half of a commit is there", batch.Count)
				}
			}
			if d.clock.Last() < p.through {
				t.Errorf("the clock would draw %s again", p.through)
			}
		}
		if shown := len(d.ids("file", false)) + len(d.ids("label", false)); shown != seen || seen == 0 {
			t.Errorf("%d records are there, and %d in the streams", shown, seen)
		}
		d.close()
	}
}

// kill starts a writer and kills it after it has acknowledged so many commits.
func kill(t *testing.T, dir string, lines int, acknowledged map[sdk.Ownership]hlc.Stamp) {
	t.Helper()
	writer := exec.Command(os.Args[0])
	writer.Env = append(append(os.Environ(), crashDir+"="+dir), databasetest.Environment(t, dir)...)
	writer.Stderr = os.Stderr
	out, err := writer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := writer.Start(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewScanner(out)
	for n := 0; in.Scan(); n++ {
		if n == lines {
			if err := writer.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		part := strings.Fields(in.Text())
		if len(part) != 3 || part[0] == "error" {
			t.Fatalf("the writer says %q", in.Text())
		}
		stamp, err := hlc.Parse(part[2])
		if err != nil {
			t.Fatal(err)
		}
		acknowledged[sdk.Ownership(part[0])] = stamp
	}
	_ = writer.Wait() // it was killed
}
