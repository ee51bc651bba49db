package controltest

import (
	"context"
	"slices"

	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/sdk"
)

type history struct{ h *Host }

// Explain answers for visible records from what is stored, for others with Explained.
func (y history) Explain(_ context.Context, model sdk.ModelName, id sdk.RecordID) (control.Explanation, error) {
	if err := y.h.fail("Explain"); err != nil {
		return control.Explanation{}, err
	}
	y.h.mu.Lock()
	defer y.h.mu.Unlock()
	records, known := y.h.records[model]
	if !known {
		return control.Explanation{}, sdk.Errorf(sdk.CodeUnknownModel, "no model %q", model)
	}
	if e, ok := y.h.Explained[id]; ok {
		return e, nil
	}
	r, ok := records[id]
	if !ok {
		return control.Explanation{}, sdk.Errorf(sdk.CodeNotFound, "no change of %s %s has arrived here", model, id)
	}
	e := control.Explanation{
		State: control.StateVisible, Inserted: r.Inserted, Owned: sdk.Version{Stamp: r.Stamp, Device: r.Owner}, Elsewhere: y.h.Elsewhere,
	}
	for i, f := range y.h.description(model).Fields {
		state := sdk.FieldState{Name: f.Name, Value: r.Values[i]}
		if i < len(r.Clocks) {
			state.Version = r.Clocks[i]
		}
		state.State = y.h.states[stateName(model, f.Name, id)].State
		e.Fields = append(e.Fields, state)
	}
	return e, nil
}

func (y history) Conflict(_ context.Context, number int64) (control.Conflict, error) {
	y.h.mu.Lock()
	defer y.h.mu.Unlock()
	for _, c := range y.h.Journal {
		if c.Number == number {
			return c, y.h.fail("Conflict")
		}
	}
	return control.Conflict{}, sdk.Errorf(sdk.CodeNotFound, "the conflict journal has no entry %d; see: starling conflicts", number)
}

func (y history) ForgetConflict(_ context.Context, number int64) error {
	if err := y.h.fail("ForgetConflict"); err != nil {
		return err
	}
	y.h.mu.Lock()
	defer y.h.mu.Unlock()
	y.h.Journal = slices.DeleteFunc(y.h.Journal, func(c control.Conflict) bool { return c.Number == number })
	return nil
}

// Waiting yields Awaiting.
func (y history) Waiting(_ context.Context, model sdk.ModelName, limit int, yield func(control.WaitingRecord) error) error {
	count := 0
	for _, r := range y.h.Awaiting {
		if model != "" && r.Model != model {
			continue
		}
		if err := yield(r); err != nil {
			return err
		}
		if count++; count == limit {
			break
		}
	}
	return y.h.fail("Waiting")
}
