package supervisor

import (
	"context"
	"sync"

	"github.com/starling-sync/starling/sdk"
)

// PluginMetrics is what a plugin says of itself to operators, unchecked.
type PluginMetrics struct {
	Plugin  string
	Metrics []sdk.Metric // none where it has none
	Err     error        // it did not answer, or not all of it is here
}

// Metrics asks each plugin that runs for its metrics, all at once, and returns when they have answered or ctx ends. They come
// in the order of Status.
func (s *Supervisor) Metrics(ctx context.Context) []PluginMetrics {
	var all []PluginMetrics
	var asked []*generation
	for _, k := range s.all() {
		k.mu.Lock()
		g := k.current
		k.mu.Unlock()
		if g != nil {
			all, asked = append(all, PluginMetrics{Plugin: k.name}), append(asked, g)
		}
	}
	var answers sync.WaitGroup
	for i, g := range asked {
		answers.Go(func() { all[i].Metrics, all[i].Err = g.process.Client().Metrics(ctx) })
	}
	answers.Wait()
	return all
}
