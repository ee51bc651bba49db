package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/starling-sync/starling/host/control/controlpb"
	"github.com/starling-sync/starling/sdk"
)

// ErrNoHost is in the chain of Dial's error where nobody answers on the socket.
var ErrNoHost = errors.New("no host is running")

// Client calls a running host. Its methods may be called at once; they block until answered or ctx ends. Their errors
// carry the host's codes; CodeUnavailable where it stops answering.
type Client struct {
	api  controlpb.ControlClient
	http *http.Transport

	// Patience is how long a call that writes may take before Notice, which is not nil then, is told once what it waits for: a
	// plugin under a debugger, or a store that does not answer; nothing while it is neither. Notice is called by a goroutine of the
	// call's, which ends before the call does. Both are set before the first call. 0: nothing is told.
	Patience time.Duration
	Notice   func(text string)
}

// waits has Notice told what a call waits for, if it takes long, until done is called. concerns says whether it is of a plugin.
func (c *Client) waits(ctx context.Context, concerns func(context.Context, *Plugin) bool) (done func()) {
	if c.Patience == 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		for {
			late := time.NewTimer(c.Patience)
			select {
			case <-ctx.Done():
				late.Stop()
				return
			case <-late.C:
			}
			if text := c.obstacle(ctx, concerns); text != "" {
				c.Notice(text)
				return
			}
		}
	})
	return func() {
		cancel()
		waiting.Wait()
	}
}

// obstacle says what a call waits for; "" if that is not known.
func (c *Client) obstacle(ctx context.Context, concerns func(context.Context, *Plugin) bool) string {
	plugins, err := c.Plugins(ctx)
	if err != nil {
		return "" // the call itself says what is wrong
	}
	for i := range plugins {
		p := &plugins[i]
		if p.State == stateDebugging && concerns(ctx, p) {
			process := ""
			if p.PID != 0 { // else it has not answered yet
				process = fmt.Sprintf("process %d, ", p.PID)
			}
			return fmt.Sprintf("no answer yet: plugin %s is %sunder a debugger, and is waited for as long as that is stopped; Ctrl-C gives up", p.Name, process)
		}
	}
	status, err := c.Status(ctx)
	if err != nil {
		return ""
	}
	for _, w := range status.Warnings {
		switch w.Code {
		case WarningStoreAway:
			return "no answer yet: the store does not answer, and is waited for, mostly for a minute at most; then it is said whether this was written; " +
				"Ctrl-C gives up waiting and undoes nothing; see: starling status"
		case WarningStoreBusy:
			return "no answer yet: " + w.Text
		}
	}
	return ""
}

// of is what a call of a model waits for.
func of(model sdk.ModelName) func(context.Context, *Plugin) bool {
	return func(_ context.Context, p *Plugin) bool { return slices.Contains(p.Models, model) }
}

// ofConflict is what a call waits for that is of the model of an entry of the conflict journal.
func (c *Client) ofConflict(number int64) func(context.Context, *Plugin) bool {
	return func(ctx context.Context, p *Plugin) bool {
		conflicts, err := c.Conflicts(ctx, "", sdk.RecordID{})
		return err == nil && slices.ContainsFunc(conflicts, func(v ConflictView) bool { return v.Number == number && slices.Contains(p.Models, v.Model) })
	}
}

// answerTime is how long Dial waits for a host to answer: one that is stopped takes connections and says nothing.
var answerTime = 30 * time.Second

// Dial connects to the host on dataDir, an absolute path, and waits until it answers, at most 30 s. CodeUnavailable with
// ErrNoHost: none is running; CodeUnavailable without: one is there and does not answer.
func Dial(ctx context.Context, dataDir string) (*Client, error) {
	path, err := findSocket(dataDir)
	if err != nil {
		return nil, err
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	conn, err := dial(ctx, "", "")
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, sdk.Errorf(sdk.CodeUnavailable, "%w for %s (%s: %v)", ErrNoHost, dataDir, path, errors.Unwrap(err))
	}
	_ = conn.Close()
	transport := &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 16, DisableCompression: true}
	if err := answers(ctx, transport); err != nil {
		transport.CloseIdleConnections()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, sdk.Errorf(sdk.CodeUnavailable, "the host for %s does not answer (%w); if its process is stopped, let it go on, else see its log and start it again", dataDir, err)
	}
	api := controlpb.NewControlClient(&http.Client{Transport: transport}, "http://starling", connect.WithAcceptCompression("gzip", nil, nil))
	return &Client{api: api, http: transport}, nil
}

// answers returns nil once the host has answered anything.
func answers(ctx context.Context, transport *http.Transport) error {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTime, fmt.Errorf("waited for %s", answerTime))
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, "http://starling/", nil)
	if err != nil {
		return err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	return response.Body.Close()
}

// Close ends the connections that are not in use.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status returns the state of the device.
func (c *Client) Status(ctx context.Context) (Status, error) {
	out, err := c.api.Status(ctx, &controlpb.StatusRequest{})
	if err != nil {
		return Status{}, fromWire(err)
	}
	return statusFromWire(out), nil
}

// Peers returns the library's other devices.
func (c *Client) Peers(ctx context.Context) ([]Peer, error) {
	out, err := c.api.Peers(ctx, &controlpb.PeersRequest{})
	if err != nil {
		return nil, fromWire(err)
	}
	return eachFromWire(out.GetPeers(), peerFromWire), nil
}

// Plugins returns the plugin processes.
func (c *Client) Plugins(ctx context.Context) ([]Plugin, error) {
	out, err := c.api.Plugins(ctx, &controlpb.PluginsRequest{})
	if err != nil {
		return nil, fromWire(err)
	}
	return eachFromWire(out.GetPlugins(), pluginFromWire), nil
}

// RestartPlugin stages a plugin's binary anew and starts it again.
func (c *Client) RestartPlugin(ctx context.Context, name string) error {
	_, err := c.api.RestartPlugin(ctx, &controlpb.RestartPluginRequest{Name: name})
	return fromWire(err)
}

// Invite returns a new code.
func (c *Client) Invite(ctx context.Context) (Invitation, error) {
	out, err := c.api.Invite(ctx, &controlpb.InviteRequest{})
	if err != nil {
		return Invitation{}, fromWire(err)
	}
	return Invitation{Code: out.GetCode(), Expires: fromMicros(out.GetExpiresUs())}, nil
}

// Join makes the device a member of the library that the code comes from.
func (c *Client) Join(ctx context.Context, code string) (Joined, error) {
	out, err := c.api.Join(ctx, &controlpb.JoinRequest{Code: code})
	if err != nil {
		return Joined{}, fromWire(err)
	}
	return Joined{
		LibraryID: out.GetLibraryId(), LibraryName: out.GetLibraryName(),
		InviterID: deviceFromWire(out.GetInviterId()), InviterName: out.GetInviterName(),
	}, nil
}

// Retire takes a device out of the library for good; this device itself only with evenSelf.
func (c *Client) Retire(ctx context.Context, id sdk.DeviceID, evenSelf bool) (Retired, error) {
	out, err := c.api.Retire(ctx, &controlpb.RetireRequest{Id: id[:], EvenSelf: evenSelf})
	if err != nil {
		return Retired{}, writes(err, "starling peers")
	}
	return Retired{ID: id, Name: out.GetName(), At: fromMicros(out.GetRetiredUs())}, nil
}

// Put writes records of one model; what is wrong with single ones is in the result. At most 16 MiB go in one call.
func (c *Client) Put(ctx context.Context, model sdk.ModelName, puts []Put, allOrNothing bool) (PutResult, error) {
	in := &controlpb.PutRequest{Model: string(model), Records: make([]*controlpb.PutRecord, len(puts)), AllOrNothing: allOrNothing}
	for i := range puts {
		in.Records[i] = &controlpb.PutRecord{Json: puts[i].JSON}
		if id := &puts[i].ID; !id.IsZero() {
			in.Records[i].Id = id[:]
		}
	}
	defer c.waits(ctx, of(model))()
	out, err := c.api.Put(ctx, in)
	if err != nil {
		return PutResult{}, writes(err, "starling list "+string(model))
	}
	result := PutResult{IDs: make([]sdk.RecordID, len(puts))}
	for i, raw := range out.GetIds() {
		if i >= len(result.IDs) {
			break
		}
		if result.IDs[i], err = idFromWire(raw); err != nil {
			return PutResult{}, err
		}
	}
	if len(out.GetRefused()) > 0 {
		result.Refused = eachFromWire(out.GetRefused(), refusalFromWire)
	}
	return result, nil
}

// Get returns a visible record as a JSON object; CodeNotFound if there is none.
func (c *Client) Get(ctx context.Context, model sdk.ModelName, id sdk.RecordID) (json.RawMessage, error) {
	out, err := c.api.Get(ctx, &controlpb.GetRequest{Model: string(model), Id: id[:]})
	if err != nil {
		return nil, fromWire(err)
	}
	return out.GetRecord(), nil
}

// Where is a condition as a person types it. An empty value means null, except for text.
type Where struct{ Field, Value string }

// List yields the visible records for which every condition holds, at most limit (0: all), in the order of their ids,
// as JSON objects, until yield fails; that error is returned.
func (c *Client) List(ctx context.Context, model sdk.ModelName, where []Where, limit int, yield func(json.RawMessage) error) error {
	in := &controlpb.ListRequest{Model: string(model), Limit: int64(limit)}
	for _, w := range where {
		in.Where = append(in.Where, &controlpb.Where{Field: w.Field, Value: w.Value})
	}
	stream, err := c.api.List(ctx, in)
	if err != nil {
		return fromWire(err)
	}
	defer stream.Close() //nolint:errcheck // only read
	for stream.Receive() {
		for _, record := range stream.Msg().GetRecords() {
			if err := yield(record); err != nil {
				return err
			}
		}
	}
	return fromWire(stream.Err())
}

// Delete deletes visible records of one model and returns which ones it could not, and why.
func (c *Client) Delete(ctx context.Context, model sdk.ModelName, ids ...sdk.RecordID) ([]sdk.Refusal, error) {
	in := &controlpb.DeleteRequest{Model: string(model)}
	for i := range ids {
		in.Ids = append(in.Ids, ids[i][:])
	}
	defer c.waits(ctx, of(model))()
	out, err := c.api.Delete(ctx, in)
	if err != nil {
		return nil, writes(err, "starling list "+string(model))
	}
	return eachFromWire(out.GetRefused(), refusalFromWire), nil
}

// Watch follows changes of models (none: all). It returns once no later change can be missed in silence.
// ctx ends the watch.
func (c *Client) Watch(ctx context.Context, models ...sdk.ModelName) (*Watch, error) {
	in := &controlpb.WatchRequest{}
	for _, m := range models {
		in.Models = append(in.Models, string(m))
	}
	stream, err := c.api.Watch(ctx, in)
	if err != nil {
		return nil, fromWire(err)
	}
	if !stream.Receive() {
		err := stream.Err()
		_ = stream.Close()
		if err == nil {
			return nil, sdk.Errorf(sdk.CodeUnavailable, "the host is stopping")
		}
		return nil, fromWire(err)
	}
	return &Watch{stream: stream}, nil
}

// Watch is a running watch, for one goroutine.
type Watch struct {
	stream  *connect.ServerStreamForClient[controlpb.WatchResponse]
	pending [][]byte
}

// Next blocks for the next event and returns it as a JSON object; context.Canceled once the watch's context has ended,
// CodeUnavailable once the host has stopped.
func (w *Watch) Next() (json.RawMessage, error) {
	for len(w.pending) == 0 {
		if !w.stream.Receive() {
			if err := w.stream.Err(); err != nil {
				return nil, fromWire(err)
			}
			return nil, sdk.Errorf(sdk.CodeUnavailable, "the host has stopped")
		}
		w.pending = w.stream.Msg().GetEvents()
	}
	event := w.pending[0]
	w.pending = w.pending[1:]
	return event, nil
}

// Close ends the watch.
func (w *Watch) Close() { _ = w.stream.Close() }

// ConflictView is an entry of the conflict journal with its values as JSON.
type ConflictView struct {
	Number   int64           `json:"number"`
	Model    sdk.ModelName   `json:"model"`
	ID       sdk.RecordID    `json:"id"`
	Field    string          `json:"field"`
	Value    json.RawMessage `json:"lost"`     // that lost
	Standing json.RawMessage `json:"standing"` // the field's value now; null if the record is not visible
	Lost     sdk.Version     `json:"-"`        // "lost_by" in JSON, as text
	Winner   sdk.Version     `json:"-"`        // "winner" in JSON, as text
}

// MarshalJSON writes the versions as text, as records do.
func (v ConflictView) MarshalJSON() ([]byte, error) {
	type plain ConflictView
	return json.Marshal(struct {
		plain
		LostBy string `json:"lost_by"`
		Winner string `json:"winner"`
	}{plain(v), v.Lost.String(), v.Winner.String()})
}

// Conflicts returns the values that lost to a write that had not seen them. Empty model and zero id stand for all.
func (c *Client) Conflicts(ctx context.Context, model sdk.ModelName, id sdk.RecordID) ([]ConflictView, error) {
	in := &controlpb.ConflictsRequest{Model: string(model)}
	if !id.IsZero() {
		in.Id = id[:]
	}
	out, err := c.api.Conflicts(ctx, in)
	if err != nil {
		return nil, fromWire(err)
	}
	return eachFromWire(out.GetConflicts(), conflictFromWire), nil
}

// Digests returns the canonical digest of every model.
func (c *Client) Digests(ctx context.Context) ([]ModelDigest, error) {
	out, err := c.api.Digest(ctx, &controlpb.DigestRequest{})
	if err != nil {
		return nil, fromWire(err)
	}
	return eachFromWire(out.GetDigests(), digestFromWire), nil
}
