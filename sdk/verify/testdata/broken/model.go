package main

import (
	"context"

	"github.com/starling-sync/starling/sdk"
)

type note struct {
	sdk.Shared
	Title string `starling:"title,required"`
	Pages int64  `starling:"pages,max"`
}

// model is a sound model, and bends what it answers.
type model struct {
	sdk.Model[note]
	bug string
}

func (m model) sound() sdk.Model[note] {
	return sdk.Model[note]{Name: "note", Version: 1, Source: m.run}
}

// run is a source that has nothing to say.
func (m model) run(ctx context.Context, host sdk.SourceHost) error {
	changed := host.Changed("note")
	for m.bug == "a source without an end" {
		<-changed
	}
	<-ctx.Done()
	return nil
}

func (m model) Run(ctx context.Context, host sdk.SourceHost) error { return m.sound().Run(ctx, host) }

func (m model) Describe(ctx context.Context) (sdk.Description, error) { return m.sound().Describe(ctx) }

func (m model) Configure(ctx context.Context, block []byte) error {
	return m.sound().Configure(ctx, block)
}

func (m model) ApplySharedChange(ctx context.Context, in sdk.SharedChanges) (sdk.SharedResult, error) {
	result, err := m.sound().ApplySharedChange(ctx, in)
	switch m.bug {
	case "no tie-break":
		keepFirst(in, &result)
	case "no refusals":
		result.Refused = nil
	case "no reasons":
		for i := range result.Refused {
			result.Refused[i].Message = ""
		}
	case "repeats change":
		if len(result.Records) == 0 {
			result.Records = in.Current
		}
	case "dies of deletes":
		for op := range in.Batch.Ops() {
			if op.Kind == sdk.Delete {
				go panic("a delete") // where nobody recovers it
			}
		}
	case "panics at deletes":
		for op := range in.Batch.Ops() {
			if op.Kind == sdk.Delete {
				panic("a delete") // which the SDK contains: an error of that call
			}
		}
	}
	return result, err
}

// keepFirst lets the write that came first stand where stamps are equal, whatever its device.
func keepFirst(in sdk.SharedChanges, out *sdk.SharedResult) {
	if len(in.Current) == 0 || len(out.Records) == 0 {
		return
	}
	for i, f := range out.Records[0].Fields {
		for _, old := range in.Current[0].Fields {
			if old.Name == f.Name && old.Version.Stamp == f.Version.Stamp {
				out.Records[0].Fields[i] = old
			}
		}
	}
}
