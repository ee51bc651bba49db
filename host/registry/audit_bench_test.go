package registry_test

import (
	"testing"

	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/sdk"
)

// BenchmarkAudit_first computes the digests of device-owned rows of which none are kept.
func BenchmarkAudit_first(b *testing.B) {
	d := newFullDevice(b, 2, entries())
	for _, p := range pages(b, benchRows) {
		d.apply(p)
	}
	for b.Loop() {
		d.registry.AuditAnew()
		d.audit()
	}
	b.ReportMetric(float64(b.N)*benchRows/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkAudit_again computes them after nothing, and after one row of a hundred thousand has changed.
func BenchmarkAudit_again(b *testing.B) {
	d := newFullDevice(b, 2, entries())
	for _, p := range pages(b, benchRows) {
		d.apply(p)
	}
	own := tree(1)[0]
	d.audit()
	b.Run("nothing", func(b *testing.B) {
		for b.Loop() {
			d.audit()
		}
	})
	b.Run("one row", func(b *testing.B) {
		for b.Loop() {
			own.Size++
			d.own(packed(b, entries(), own))
			d.audit()
		}
	})
}

// BenchmarkReadRange reads all rows, and all but a few by their ids.
func BenchmarkReadRange(b *testing.B) {
	d := newFullDevice(b, 2, entries())
	list := pages(b, benchRows)
	for _, p := range list {
		d.apply(p)
	}
	d.own(packed(b, entries(), tree(1)...))
	for name, q := range map[string]registry.RangeQuery{
		"rows": {Owner: deviceID(1)}, "ids": {Owner: deviceID(1), Since: list[len(list)-1].from}, "everybody's": {}, "one among others'": {Owner: d.id},
	} {
		q.Kind, q.MaxBytes = sdk.DeviceOwned, 256<<10
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				d.ranges(q)
			}
			b.ReportMetric(float64(b.N)*benchRows/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

// BenchmarkTakeRange takes in a snapshot of device-owned rows, new ones and such that are here already.
func BenchmarkTakeRange(b *testing.B) {
	src := newFullDevice(b, 2, entries())
	for _, p := range pages(b, benchRows) {
		src.apply(p)
	}
	q := registry.RangeQuery{Kind: sdk.DeviceOwned, Owner: deviceID(1), MaxBytes: 256 << 10}
	list := incoming(q, src.ranges(q), covered(src.vector(), sdk.DeviceOwned), covered(nil, sdk.DeviceOwned))
	b.Run("new", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			d := newFullDevice(b, 3, entries())
			b.StartTimer()
			for _, in := range list {
				d.take(in)
			}
			b.StopTimer()
			d.close()
			b.StartTimer()
		}
		b.ReportMetric(float64(b.N)*benchRows/b.Elapsed().Seconds(), "rows/s")
	})
	b.Run("there already", func(b *testing.B) {
		for b.Loop() {
			for _, in := range list {
				src.take(in)
			}
		}
		b.ReportMetric(float64(b.N)*benchRows/b.Elapsed().Seconds(), "rows/s")
	})
}

// BenchmarkRangeShared reads shared records as a range, and takes them in.
func BenchmarkRangeShared(b *testing.B) {
	const rows = 20_000
	src := newFullDevice(b, 1, labels())
	var made []*Label
	for range rows {
		made = append(made, &Label{Shared: sdk.Shared{ID: sdk.NewRecordID()}, Name: "a label", Color: "red"})
	}
	src.share(packed(b, labels(), made...))
	q := registry.RangeQuery{Kind: sdk.SharedByAll, MaxBytes: 256 << 10}
	list := incoming(q, src.ranges(q), covered(src.vector(), q.Kind), covered(nil, q.Kind))
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			src.ranges(q)
		}
		b.ReportMetric(float64(b.N)*rows/b.Elapsed().Seconds(), "records/s")
	})
	b.Run("take", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			d := newFullDevice(b, 3, labels())
			b.StartTimer()
			for _, in := range list {
				d.take(in)
			}
			b.StopTimer()
			d.close()
			b.StartTimer()
		}
		b.ReportMetric(float64(b.N)*rows/b.Elapsed().Seconds(), "records/s")
	})
}
