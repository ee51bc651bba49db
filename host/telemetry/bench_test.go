package telemetry

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/sdk"
)

// BenchmarkScrape scrapes a device that knows so many peers, each with 12 models.
func BenchmarkScrape(b *testing.B) {
	for _, peers := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint(peers), func(b *testing.B) {
			d := &device{}
			d.figures.Engine.Peers = map[sdk.DeviceID]peersync.PeerFigures{}
			for i := range peers {
				id := sdk.DeviceID{byte(i >> 8), byte(i)}
				d.figures.Peers = append(d.figures.Peers, peersync.PeerStatus{ID: id, Name: fmt.Sprint("device ", i), State: peersync.Live, Via: "lan", RTT: time.Millisecond})
				changes := map[sdk.ModelName]peersync.Changes{}
				for m := range 12 {
					changes[sdk.ModelName(fmt.Sprint("model_", m))] = peersync.Changes{Sent: int64(i), Received: int64(m)}
				}
				d.figures.Engine.Peers[id] = peersync.PeerFigures{Changes: changes}
			}
			s, err := NewServer(Options{Source: d, Health: d, Recorder: NewRecorder(), Log: hclog.NewNullLogger()})
			if err != nil {
				b.Fatal(err)
			}
			size := int64(0)
			for b.Loop() {
				w := httptest.NewRecorder()
				s.handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
				if size, err = io.Copy(io.Discard, w.Result().Body); err != nil || w.Code != http.StatusOK {
					b.Fatal(w.Code, err)
				}
			}
			b.ReportMetric(float64(size), "bytes/scrape")
		})
	}
}
