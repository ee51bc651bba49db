package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/host/control/controlpb"
	"github.com/starling-sync/starling/sdk"
)

const (
	maxRequestBytes = 16 << 20 // of one call; a record is at most 1 MiB
	chunkBytes      = 64 << 10 // records of a list that travel together
	stopGrace       = 5 * time.Second
)

// Server serves the API. Its calls may run at once.
type Server struct {
	backend Backend
	log     hclog.Logger
	writer  *writer
}

// NewServer returns a server of backend. newID makes the ids of inserted records.
func NewServer(backend Backend, log hclog.Logger, newID func() sdk.RecordID) *Server {
	return &Server{backend: backend, log: log, writer: newWriter(backend.Records, backend.History, backend.Reporter, newID)}
}

// Run serves on listener (Listen makes one) until ctx ends, then ends the watches at once, gives calls under way five
// seconds, and returns nil. It closes listener.
func (s *Server) Run(ctx context.Context, listener net.Listener) error {
	path, handler := controlpb.NewControlHandler(&service{Server: s, stop: ctx.Done()},
		connect.WithReadMaxBytes(maxRequestBytes),
		connect.WithCompression("gzip", nil, nil), // nothing to gain on a socket
		connect.WithCodec(strictJSON{"json"}), connect.WithCodec(strictJSON{"json; charset=utf-8"}),
		connect.WithRecover(s.recovered))
	return serve(ctx, listener, s.log, path, handler)
}

func serve(ctx context.Context, listener net.Listener, log hclog.Logger, path string, handler http.Handler) error {
	mux := http.NewServeMux()
	mux.Handle(path, handler)
	server := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	var failed error
	select {
	case failed = <-served:
		served <- nil
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		_ = server.Close() // nothing more can be done for what is still open
	}
	if err := <-served; failed == nil && err != nil && !errors.Is(err, http.ErrServerClosed) {
		failed = err
	}
	if failed != nil {
		return fmt.Errorf("serve the control API: %w", failed)
	}
	return nil
}

func (s *Server) recovered(_ context.Context, spec connect.Spec, _ http.Header, cause any) error {
	s.log.Error("control call panicked", "call", spec.Procedure, "cause", cause)
	return toWire(sdk.Errorf(sdk.CodeInternal, "the host failed inside %s; see its log", spec.Procedure))
}

// service is the wire's view of a Server.
type service struct {
	*Server
	stop <-chan struct{}
}

func (s *service) Status(ctx context.Context, _ *controlpb.StatusRequest) (*controlpb.StatusResponse, error) {
	status, err := s.backend.Reporter.Status(ctx)
	if err != nil {
		return nil, toWire(err)
	}
	return statusToWire(&status), nil
}

func (s *service) Peers(ctx context.Context, _ *controlpb.PeersRequest) (*controlpb.PeersResponse, error) {
	peers, err := s.backend.Reporter.Peers(ctx)
	if err != nil {
		return nil, toWire(err)
	}
	return &controlpb.PeersResponse{Peers: each(peers, peerToWire)}, nil
}

func (s *service) Plugins(ctx context.Context, _ *controlpb.PluginsRequest) (*controlpb.PluginsResponse, error) {
	plugins, err := s.backend.Reporter.Plugins(ctx)
	if err != nil {
		return nil, toWire(err)
	}
	return &controlpb.PluginsResponse{Plugins: each(plugins, pluginToWire)}, nil
}

func (s *service) Invite(ctx context.Context, _ *controlpb.InviteRequest) (*controlpb.InviteResponse, error) {
	invitation, err := s.backend.Pairing.Invite(ctx)
	if err != nil {
		return nil, toWire(err)
	}
	return &controlpb.InviteResponse{Code: invitation.Code, ExpiresUs: micros(invitation.Expires)}, nil
}

func (s *service) Join(ctx context.Context, in *controlpb.JoinRequest) (*controlpb.JoinResponse, error) {
	joined, err := s.backend.Pairing.Join(ctx, in.GetCode())
	if err != nil {
		return nil, toWire(err)
	}
	return &controlpb.JoinResponse{
		LibraryId: joined.LibraryID, LibraryName: joined.LibraryName,
		InviterId: joined.InviterID[:], InviterName: joined.InviterName,
	}, nil
}

func (s *service) Retire(ctx context.Context, in *controlpb.RetireRequest) (*controlpb.RetireResponse, error) {
	id, err := memberFromWire(in.GetId())
	if err != nil {
		return nil, toWire(err)
	}
	retired, err := s.backend.Pairing.Retire(ctx, id, in.GetEvenSelf())
	if err != nil {
		return nil, toWire(err)
	}
	return &controlpb.RetireResponse{Name: retired.Name, RetiredUs: micros(retired.At)}, nil
}

func (s *service) Put(ctx context.Context, in *controlpb.PutRequest) (*controlpb.PutResponse, error) {
	if len(in.GetRecords()) == 0 {
		return nil, toWire(sdk.Errorf(sdk.CodeInvalid, "records is empty: it names what to write, each with json, and with id to update one that exists"))
	}
	puts := make([]Put, len(in.GetRecords()))
	for i, r := range in.GetRecords() {
		id, err := idFromWire(r.GetId())
		if err != nil {
			return nil, toWire(err)
		}
		puts[i] = Put{ID: id, JSON: r.GetJson()}
	}
	result, err := s.writer.put(ctx, sdk.ModelName(in.GetModel()), puts, in.GetAllOrNothing())
	if err != nil {
		return nil, toWire(NotWritten(err))
	}
	out := &controlpb.PutResponse{Ids: make([][]byte, len(result.IDs)), Refused: each(result.Refused, refusalToWire)}
	for i := range result.IDs {
		if id := &result.IDs[i]; !id.IsZero() {
			out.Ids[i] = id[:]
		}
	}
	return out, nil
}

func (s *service) Get(ctx context.Context, in *controlpb.GetRequest) (*controlpb.GetResponse, error) {
	desc, err := describe(ctx, s.backend.Records, s.backend.Reporter, sdk.ModelName(in.GetModel()))
	if err != nil {
		return nil, toWire(err)
	}
	id, err := idFromWire(in.GetId())
	if err != nil {
		return nil, toWire(err)
	}
	record, err := s.backend.Records.Get(ctx, desc.Model, id)
	if err != nil {
		return nil, toWire(s.writer.mistaken(ctx, desc.Model, id, err))
	}
	return &controlpb.GetResponse{Record: appendRecord(nil, &desc, &record)}, nil
}

func (s *service) List(ctx context.Context, in *controlpb.ListRequest, out *connect.ServerStream[controlpb.ListResponse]) error {
	desc, err := describe(ctx, s.backend.Records, s.backend.Reporter, sdk.ModelName(in.GetModel()))
	if err != nil {
		return toWire(err)
	}
	if in.GetLimit() < 0 {
		return toWire(sdk.Errorf(sdk.CodeInvalid, "limit %d is negative; 0 means no limit", in.GetLimit()))
	}
	var where []Condition
	for _, w := range in.GetWhere() {
		c, err := condition(&desc, w.GetField(), w.GetValue())
		if err != nil {
			return toWire(err)
		}
		where = append(where, c)
	}
	chunk, size := &controlpb.ListResponse{}, 0
	err = list(ctx, s.backend.Records, &desc, where, int(in.GetLimit()), func(r *Record) error {
		object := appendRecord(nil, &desc, r)
		chunk.Records, size = append(chunk.Records, object), size+len(object)
		if size < chunkBytes {
			return nil
		}
		full := chunk
		chunk, size = &controlpb.ListResponse{}, 0
		return out.Send(full)
	})
	if err == nil && len(chunk.GetRecords()) > 0 {
		err = out.Send(chunk)
	}
	return toWire(err)
}

func (s *service) Delete(ctx context.Context, in *controlpb.DeleteRequest) (*controlpb.DeleteResponse, error) {
	if len(in.GetIds()) == 0 {
		return nil, toWire(sdk.Errorf(sdk.CodeInvalid, "ids is empty: it names the records to delete"))
	}
	ids := make([]sdk.RecordID, len(in.GetIds()))
	for i, raw := range in.GetIds() {
		id, err := idFromWire(raw)
		if err != nil {
			return nil, toWire(err)
		}
		ids[i] = id
	}
	refused, err := s.writer.remove(ctx, sdk.ModelName(in.GetModel()), ids)
	if err != nil {
		return nil, toWire(NotWritten(err))
	}
	return &controlpb.DeleteResponse{Refused: each(refused, refusalToWire)}, nil
}

func (s *service) Watch(ctx context.Context, in *controlpb.WatchRequest, out *connect.ServerStream[controlpb.WatchResponse]) error {
	var models []sdk.ModelName
	for _, name := range in.GetModels() {
		desc, err := describe(ctx, s.backend.Records, s.backend.Reporter, sdk.ModelName(name))
		if err != nil {
			return toWire(err)
		}
		models = append(models, desc.Model)
	}
	events, cancel := s.backend.Feed.Watch(models)
	defer cancel()
	if err := out.Send(&controlpb.WatchResponse{}); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.stop:
			return nil
		case event, open := <-events:
			if !open {
				return nil
			}
			object, err := s.describeEvent(ctx, &event)
			if err != nil {
				return toWire(err)
			}
			if err := out.Send(&controlpb.WatchResponse{Events: [][]byte{object}}); err != nil {
				return err
			}
		}
	}
}

// describeEvent returns the event as a JSON object, with the record as it is now.
func (s *service) describeEvent(ctx context.Context, event *Event) ([]byte, error) {
	if event.Missed {
		return []byte(missed), nil
	}
	desc, served := find(s.backend.Records.Models(), event.Model)
	if !served || event.Gone {
		return appendEvent(nil, &desc, event, nil), nil
	}
	record, err := s.backend.Records.Get(ctx, event.Model, event.ID)
	switch {
	case sdk.CodeOf(err) == sdk.CodeNotFound: // gone since
		return appendEvent(nil, &desc, event, nil), nil
	case err != nil:
		return nil, err
	}
	return appendEvent(nil, &desc, event, &record), nil
}

func (s *service) RestartPlugin(ctx context.Context, in *controlpb.RestartPluginRequest) (*controlpb.RestartPluginResponse, error) {
	if err := s.backend.Reporter.RestartPlugin(ctx, in.GetName()); err != nil {
		return nil, toWire(err)
	}
	return &controlpb.RestartPluginResponse{}, nil
}

func (s *service) Conflicts(ctx context.Context, in *controlpb.ConflictsRequest) (*controlpb.ConflictsResponse, error) {
	model := sdk.ModelName(in.GetModel())
	if model != "" {
		if _, err := describe(ctx, s.backend.Records, s.backend.Reporter, model); err != nil {
			return nil, toWire(err)
		}
	}
	id, err := idFromWire(in.GetId())
	if err != nil {
		return nil, toWire(err)
	}
	conflicts, err := s.backend.Journal.Conflicts(ctx, model, id)
	if err != nil {
		return nil, toWire(err)
	}
	out := &controlpb.ConflictsResponse{}
	for i := range conflicts {
		c, err := s.conflictToWire(ctx, &conflicts[i])
		if err != nil {
			return nil, toWire(err)
		}
		out.Conflicts = append(out.Conflicts, c)
	}
	return out, nil
}

// conflictToWire adds the value that stands now, and the types that values are written by.
func (s *service) conflictToWire(ctx context.Context, c *Conflict) (*controlpb.Conflict, error) {
	out := &controlpb.Conflict{
		Number: c.Number, Model: string(c.Model), Id: c.ID[:], Field: c.Field,
		LostStamp: uint64(c.Lost.Stamp), LostDevice: c.Lost.Device[:],
		WinnerStamp: uint64(c.Winner.Stamp), WinnerDevice: c.Winner.Device[:],
	}
	desc, _ := find(s.backend.Records.Models(), c.Model)
	field, ok := desc.Field(c.Field)
	if !ok { // of a newer version of the model, or the plugin is not there
		out.LostJson = sdk.AppendJSONValue(nil, typeOf(c.Value), c.Value)
		return out, nil
	}
	out.LostJson = sdk.AppendJSONValue(nil, field.ValueType(), c.Value)
	record, err := s.backend.Records.Get(ctx, c.Model, c.ID)
	if sdk.CodeOf(err) == sdk.CodeNotFound {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	for i, f := range desc.Fields {
		if f.Name == c.Field {
			out.WinnerJson = sdk.AppendJSONValue(nil, f.ValueType(), record.Values[i])
		}
	}
	return out, nil
}

// typeOf returns the type that a value of an unknown field can be written as.
func typeOf(v any) sdk.Type {
	switch v.(type) {
	case int64:
		return sdk.Int
	case float64:
		return sdk.Float
	case bool:
		return sdk.Bool
	case []byte:
		return sdk.Bytes
	case sdk.RecordID:
		return sdk.UUID
	}
	return sdk.Text
}

func (s *service) Digest(ctx context.Context, _ *controlpb.DigestRequest) (*controlpb.DigestResponse, error) {
	digests, err := s.backend.Journal.Digests(ctx)
	if err != nil {
		return nil, toWire(err)
	}
	return &controlpb.DigestResponse{Digests: each(digests, digestToWire)}, nil
}

func idFromWire(raw []byte) (sdk.RecordID, error) {
	if len(raw) == 0 {
		return sdk.RecordID{}, nil
	}
	if len(raw) != len(sdk.RecordID{}) {
		return sdk.RecordID{}, sdk.Errorf(sdk.CodeInvalid, "an id of %d bytes; want 16", len(raw))
	}
	if sdk.RecordID(raw).IsZero() {
		return sdk.RecordID{}, sdk.Errorf(sdk.CodeInvalid, "the zero id names no record")
	}
	return sdk.RecordID(raw), nil
}
