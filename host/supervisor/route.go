package supervisor

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"github.com/starling-sync/starling/sdk"
)

// route is a model, whichever process serves it now: the pointer that a swap switches. It is an sdk.ModelServer.
//
// While a new process is watched, the one before is asked too. Models are pure, so the same call has the same answer: a
// new one that fails, hangs or decides otherwise is found at once, its answer is not used, and the call that showed it
// is answered by the one before. Nobody who calls notices.
type route struct {
	model sdk.ModelName
	limit time.Duration             // of a call while it is watched
	fault func(at *target, e error) // takes the new one out of use at once; e says why
	to    atomic.Pointer[target]    // nil before the first process
}

// target says who serves a model.
type target struct {
	now    *served
	before *served      // while now is watched; else nil
	alike  bool         // both are of the same version and configuration, so that they must decide alike
	calls  atomic.Int64 // under way
}

// served is a model of one process.
type served struct {
	sdk.ModelServer
	total atomic.Int64 // calls
	local pace         // of the calls for what is written here, which are validated in full
	peers pace         // of those for what peers wrote
}

func (s *served) pace(local bool) *pace {
	if local {
		return &s.local
	}
	return &s.peers
}

// Describe implements sdk.ModelServer.
func (r *route) Describe(ctx context.Context) (sdk.Description, error) {
	return r.to.Load().now.Describe(ctx)
}

// ApplyStateChange implements sdk.ModelServer.
func (r *route) ApplyStateChange(ctx context.Context, in sdk.StateChanges) (sdk.StateResult, error) {
	return call(ctx, r, in.Batch.Count, in.Local, sameState, func(ctx context.Context, s *served) (sdk.StateResult, error) { return s.ApplyStateChange(ctx, in) })
}

// ApplySharedChange implements sdk.ModelServer.
func (r *route) ApplySharedChange(ctx context.Context, in sdk.SharedChanges) (sdk.SharedResult, error) {
	return call(ctx, r, in.Batch.Count, in.Local, sameShared, func(ctx context.Context, s *served) (sdk.SharedResult, error) { return s.ApplySharedChange(ctx, in) })
}

// answer is what one process said.
type answer[T any] struct {
	result T
	err    error
}

// asked calls one process about n changes.
func asked[T any](ctx context.Context, s *served, n int, local bool, do func(context.Context, *served) (T, error)) answer[T] {
	s.total.Add(1)
	defer s.pace(local).begin(n)()
	result, err := do(ctx, s)
	return answer[T]{result, err}
}

// call has a model decide on n changes.
func call[T any](ctx context.Context, r *route, n int, local bool, same func(a, b *T) bool, do func(context.Context, *served) (T, error)) (T, error) {
	at := r.to.Load()
	at.calls.Add(1)
	defer at.calls.Add(-1)
	if at.before == nil {
		a := asked(ctx, at.now, n, local, do)
		if a.err != nil && ctx.Err() == nil && r.to.Load() != at && failure(a.err) {
			a = asked(ctx, r.to.Load().now, n, local, do) // it was on its way out
		}
		return a.result, a.err
	}
	limited, cancel := context.WithTimeout(ctx, r.limit)
	defer cancel()
	theirs := make(chan answer[T], 1) // of the new one; buffered: it may be late
	go func() { theirs <- asked(limited, at.now, n, local, do) }()
	var before answer[T]
	if at.alike {
		before = asked(ctx, at.before, n, local, do)
	}
	var now answer[T]
	select {
	case now = <-theirs:
	case <-limited.Done():
		now.err = limited.Err()
	}
	if ctx.Err() != nil {
		return now.result, ctx.Err()
	}
	wrong := judge(r, at, &now, &before, limited.Err(), same)
	if wrong == nil {
		return now.result, now.err
	}
	r.fault(at, wrong)
	if !at.alike {
		before = asked(ctx, at.before, n, local, do)
	}
	return before.result, before.err
}

// judge says what is wrong with the new process's answer; nil: nothing. late says that its time was over.
func judge[T any](r *route, at *target, now, before *answer[T], late error, same func(a, b *T) bool) error {
	switch {
	case now.err != nil && late != nil:
		return sdk.Errorf(sdk.CodeUnavailable, "it did not decide on a batch of model %q within %s", r.model, r.limit)
	case failure(now.err):
		return sdk.Errorf(sdk.CodeOf(now.err), "it failed on a batch of model %q: %w", r.model, now.err)
	case !at.alike || failure(before.err):
		return nil
	case now.err == nil && before.err == nil && same(&now.result, &before.result):
		return nil
	case now.err != nil && before.err != nil && sdk.CodeOf(now.err) == sdk.CodeOf(before.err):
		return nil
	}
	return sdk.Errorf(sdk.CodeInvalid, "it decided on a batch of model %q otherwise than the one before, although both are of the same version; if that is meant, raise the model's Version", r.model)
}

// failure reports whether err is the process's own, not what it thinks of the batch.
func failure(err error) bool {
	switch sdk.CodeOf(err) {
	case sdk.CodeInternal, sdk.CodeUnavailable:
		return err != nil
	}
	return false
}

func sameState(a, b *sdk.StateResult) bool {
	return bytes.Equal(a.Rows, b.Rows) && sameRefusals(a.Refused, b.Refused)
}

// sameShared compares answers whose records and conflicts may come in any order.
func sameShared(a, b *sdk.SharedResult) bool {
	return sameRefusals(a.Refused, b.Refused) && sameSet(a.Records, b.Records) && sameSet(a.Conflicts, b.Conflicts) && sameSet(a.Resolved, b.Resolved)
}

// sameRefusals leaves out the words, which are for people.
func sameRefusals(a, b []sdk.Refusal) bool {
	return slices.EqualFunc(a, b, func(a, b sdk.Refusal) bool { return a.Index == b.Index && a.Code == b.Code })
}

func sameSet[T any](a, b []T) bool {
	if len(a) != len(b) {
		return false
	}
	if len(a) == 0 || reflect.DeepEqual(a, b) {
		return true
	}
	return slices.Equal(inOrder(a), inOrder(b))
}

func inOrder[T any](values []T) []string {
	texts := make([]string, 0, len(values))
	for i := range values {
		texts = append(texts, fmt.Sprintf("%#v", values[i]))
	}
	slices.SortFunc(texts, cmp.Compare[string])
	return texts
}
