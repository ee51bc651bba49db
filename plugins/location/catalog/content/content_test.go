package content

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func free(int) error { return nil }

// pattern is a file of any size whose bytes depend on where they are.
type pattern struct {
	size    int64
	changed int64 // where one byte differs; -1: nowhere
	read    int64
}

func (p *pattern) ReadAt(dst []byte, at int64) (int, error) {
	n := 0
	for ; n < len(dst) && at+int64(n) < p.size; n++ {
		i := at + int64(n)
		dst[n] = byte(i ^ i>>8 ^ i>>16)
		if i == p.changed {
			dst[n]++
		}
	}
	p.read += int64(n)
	if n < len(dst) {
		return n, io.EOF
	}
	return n, nil
}

func name(t testing.TB, p *pattern, whole int64) string {
	t.Helper()
	name, err := Name(p, p.size, whole, free)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestName_Whole(t *testing.T) {
	for _, size := range []int64{0, 1, sampleBytes - 1, sampleBytes, sampleBytes + 1, LeastWhole} {
		p := &pattern{size: size, changed: -1}
		all := make([]byte, size)
		p.ReadAt(all, 0)
		sum := sha256.Sum256(all)
		if got, want := name(t, p, 0), Whole+":"+hex.EncodeToString(sum[:]); got != want {
			t.Errorf("%d bytes: %s, want %s", size, got, want)
		}
	}
	if got := name(t, &pattern{}, 0); got != "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" {
		t.Errorf("of nothing: %s", got)
	}
}

// TestName_Sampled computes the name as the page on entries says, in another way, and holds one for ever.
func TestName_Sampled(t *testing.T) {
	for _, size := range []int64{LeastWhole + 1, 5_000_000, 1<<40 + 7} {
		p := &pattern{size: size, changed: -1}
		text := binary.BigEndian.AppendUint64(nil, uint64(size))
		for i := range int64(16) {
			sample := make([]byte, 65536)
			p.ReadAt(sample, i*(size-65536)/15)
			text = append(text, sample...)
		}
		sum := sha256.Sum256(text)
		if got, want := name(t, p, 0), "sampled-sha256:"+hex.EncodeToString(sum[:]); got != want {
			t.Errorf("%d bytes: %s, want %s", size, got, want)
		}
	}
	const for5M = "sampled-sha256:a34b8ad430faa889a43224961b979b1a85c4708d7f1bad8e60a2bcaf1606d318"
	if got := name(t, &pattern{size: 5_000_000, changed: -1}, 0); got != for5M {
		t.Errorf("of 5,000,000 bytes: %s, want %s: what is in databases would not be found again", got, for5M)
	}
}

func TestName_ReadsNoMoreThanItSays(t *testing.T) {
	p := &pattern{size: 1 << 40, changed: -1}
	paced := int64(0)
	if _, err := Name(p, p.size, 1<<20, func(n int) error { paced += int64(n); return nil }); err != nil {
		t.Fatal(err)
	}
	if p.read != 1<<20 || paced != p.read {
		t.Errorf("%d bytes read, %d announced; want 1 MiB", p.read, paced)
	}
}

// TestName_Differs changes one byte: the name of all of it changes, and a sampled one iff it looked there.
func TestName_Differs(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.Int64Range(1, 3*LeastWhole).Draw(rt, "size")
		at := rapid.Int64Range(0, size-1).Draw(rt, "at")
		whole := rapid.SampledFrom([]int64{0, LeastWhole, 3 * LeastWhole}).Draw(rt, "whole")
		before := name(t, &pattern{size: size, changed: -1}, whole)
		after := name(t, &pattern{size: size, changed: at}, whole)
		looked := strings.HasPrefix(before, Whole+":")
		for i := range int64(samples) {
			from := i * (size - sampleBytes) / (samples - 1)
			looked = looked || (at >= from && at < from+sampleBytes)
		}
		if (before != after) != looked {
			rt.Fatalf("one byte of %d changed at %d: the name went from %s to %s", size, at, before, after)
		}
	})
}

func TestName_SizeCounts(t *testing.T) {
	zero := func(size int64) string {
		name, err := Name(bytes.NewReader(make([]byte, size)), size, 0, free)
		if err != nil {
			t.Fatal(err)
		}
		return name
	}
	if zero(2<<20) == zero(2<<20+1) {
		t.Error("two sizes of zeros have one name")
	}
}

func TestName_Fails(t *testing.T) {
	short := &pattern{size: 100, changed: -1}
	if _, err := Name(short, 200, 0, free); !errors.Is(err, ErrChanged) {
		t.Errorf("a file that became shorter: %v", err)
	}
	stopped := errors.New("stopped")
	if _, err := Name(short, 100, 0, func(int) error { return stopped }); !errors.Is(err, stopped) {
		t.Errorf("pace said stop: %v", err)
	}
	if _, err := Name(short, -1, 0, free); err == nil {
		t.Error("a negative size has a name")
	}
}

// TestBytes holds what is said to be read against what is read.
func TestBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &pattern{size: rapid.Int64Range(0, 3*LeastWhole).Draw(t, "size"), changed: -1}
		whole := rapid.Int64Range(-1, 3*LeastWhole).Draw(t, "whole")
		if _, err := Name(p, p.size, whole, free); err != nil {
			t.Fatal(err)
		}
		if got := Bytes(p.size, whole); got != p.read {
			t.Errorf("Bytes(%d, %d) is %d, and %d are read", p.size, whole, got, p.read)
		}
	})
}
