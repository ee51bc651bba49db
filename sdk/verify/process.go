package verify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
	"github.com/starling-sync/starling/sdk/rpc/rpcpb"
	"github.com/starling-sync/starling/sdk/sdktest"
)

// processLaw is a law of plugin processes, and which of them it is about.
type processLaw struct {
	sdktest.Law
	about func(s *subject) bool
	check func(s *subject, t sdktest.T)
}

func (s *subject) any() bool { return true }

func (s *subject) servesModels() bool { return len(s.info.Models) > 0 }

// processLaws are the laws of plugin processes. A new law gets a new id and a row in docs/conformance.md.
func processLaws() []processLaw {
	type law = sdktest.Law
	all, models := (*subject).any, (*subject).servesModels
	return []processLaw{
		{law{ID: handshakeLaw, Name: "Handshake", Says: "It starts within 15 s, and prints its handshake line and nothing before it on standard output"}, all, (*subject).handshake},
		{law{ID: "PLUGIN-002", Name: "StartedByHand", Says: "Started without a host, it says so and ends with a status that is not 0"}, all, (*subject).startedByHand},
		{law{ID: "PLUGIN-003", Name: "Info", Says: "It serves a model or a transport, and says the same of itself each time"}, all, (*subject).sameInfo},
		{law{ID: "PLUGIN-004", Name: "Health", Says: "It answers at once how it is, and is well"}, all, (*subject).health},
		{law{ID: configLaw, Name: "Config", Says: "It takes the config block that it is given"}, all, (*subject).takesConfig},
		{law{ID: "PLUGIN-006", Name: "UnknownSettingIsRefused", Says: "A setting that it does not know is refused as invalid, with a sentence that names it"}, all, (*subject).unknownSetting},
		{law{ID: "PLUGIN-007", Name: "UnknownMessageFields", Says: "Fields of a newer protocol in messages are no error"}, all, (*subject).unknownMessageFields},
		{law{ID: "PLUGIN-008", Name: "UnknownModel", Says: "A batch for a model that it does not serve is refused as unknown_model, and it lives on"}, all, (*subject).unknownModel},
		{law{ID: "PLUGIN-009", Name: "ManyAtOnce", Says: "Batches sent at once, as many as it granted, are each answered once under their own ids"}, models, (*subject).manyAtOnce},
		{law{ID: "PLUGIN-010", Name: "GreatestBatch", Says: "A batch of 60 MiB is answered"}, models, (*subject).greatestBatch},
		{law{ID: "PLUGIN-011", Name: "TooLargeIsRefused", Says: "A message over 64 MiB is refused, and it lives on"}, all, (*subject).tooLarge},
		{law{ID: "PLUGIN-012", Name: "GarbageIsSurvived", Says: "Whatever it is sent, it answers with an error or a refusal and lives on"}, all, (*subject).garbage},
		{law{ID: "PLUGIN-013", Name: "Drain", Says: "Drain returns once the work under way has ended; from then on batches are refused as unavailable"}, all, (*subject).drain},
		{law{ID: "PLUGIN-014", Name: "Stop", Says: "Asked to stop, it ends by itself within 2 s"}, all, (*subject).stops},
		{law{ID: "PLUGIN-015", Name: "HostGone", Says: "It ends by itself soon after its host, however that ended"}, all, (*subject).hostGone},
		{law{ID: "PLUGIN-016", Name: "SourceEnds", Says: "A source ends when the host ends its call, and when the process drains"}, (*subject).servesSources, (*subject).sourceEnds},
		{law{ID: "PLUGIN-017", Name: "DefaultsAreTaken", Says: "What it declares of its settings makes sense, and a block of their defaults is taken"}, (*subject).declares, (*subject).defaultsAreTaken},
		{law{ID: "PLUGIN-018", Name: "WrongTypeIsRefused", Says: "A setting of another type than it declares is refused as invalid, with a sentence that names it"}, (*subject).declares, (*subject).wrongTypeIsRefused},
		{law{ID: "PLUGIN-019", Name: "JudgedAsTaken", Says: "Asked whether it would take a config block, it says what it says when it is given it"}, (*subject).judgesBlocks, (*subject).judgedAsTaken},
	}
}

func (s *subject) handshake(t sdktest.T) {
	if s.startErr != nil {
		t.Fatal(s.startErr)
	}
	lives(t, s.start(t))
}

// byHandWait is how long a plugin that was started by hand may take to say so.
const byHandWait = 10 * time.Second

func (s *subject) startedByHand(t sdktest.T) {
	ctx, cancel := context.WithTimeout(t.Context(), byHandWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.absolute()) //nolint:gosec // who checks it chose it
	cmd.Env = append(byHandEnvironment(), s.Env...)
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		t.Skipf("it can not be run (%v): see PLUGIN-001", err)
	}
	err := cmd.Wait()
	switch {
	case ctx.Err() != nil:
		t.Errorf("it still ran after %s; a plugin that nobody listens to must not", byHandWait)
	case err == nil:
		t.Errorf("it ended with status 0; it printed %.200q", out.String())
	case errs.Len() == 0 && out.Len() == 0:
		t.Errorf("it ended (%v) without a word; say on standard error that a host starts it", err)
	}
}

// absolute is the path as no search path could be meant.
func (s *subject) absolute() string {
	if abs, err := filepath.Abs(s.path); err == nil {
		return abs
	}
	return s.path
}

func byHandEnvironment() []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "SystemRoot"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

func (s *subject) sameInfo(t sdktest.T) {
	p := s.start(t)
	if !s.servesModels() && s.info.Transport == "" {
		t.Fatal("it serves neither a model nor a transport")
	}
	for i := range s.info.Models {
		if err := s.info.Models[i].Model.CheckServed(); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		info, err := p.Client().Info(s.soon(t))
		if err != nil {
			t.Fatalf("info: %v", err)
		}
		if !reflect.DeepEqual(info, s.info) {
			t.Fatalf("it described itself in two ways: %+v and %+v", s.info, info)
		}
	}
}

// soon is a context that ends when patience does.
func (s *subject) soon(t sdktest.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), s.Patience)
	t.Cleanup(cancel)
	return ctx
}

func (s *subject) health(t sdktest.T) { s.mustBeWell(t, s.start(t)) }

// mustBeWell fails the law unless the process answers, and says that it is well.
func (s *subject) mustBeWell(t sdktest.T, p *rpc.Process) {
	t.Helper()
	h, err := p.Client().Health(s.soon(t))
	if err != nil {
		lives(t, p)
		t.Fatalf("health: %v", err)
	}
	if !h.OK {
		t.Errorf("it is not well: %s", h)
	}
}

func (s *subject) takesConfig(t sdktest.T) {
	if s.blockErr != nil {
		t.Fatal(s.blockErr)
	}
	p := s.start(t)
	for _, target := range s.targets() {
		if err := s.configurable(p, target).Configure(s.soon(t), s.config(target)); err != nil {
			t.Errorf("%s, given %s: %v", s.targetName(target), s.config(target), err)
		}
	}
	s.mustBeWell(t, p)
}

const unknownSetting = "zz_no_such_setting"

func (s *subject) unknownSetting(t sdktest.T) {
	p := s.start(t)
	for _, target := range s.targets() {
		block := map[string]any{}
		if err := json.Unmarshal(s.config(target), &block); err != nil {
			t.Fatalf("the config block given is not a JSON object: %v", err)
		}
		block[unknownSetting] = 1
		text, err := json.Marshal(block)
		if err != nil {
			t.Fatal(err)
		}
		err = s.configurable(p, target).Configure(s.soon(t), text)
		switch {
		case err == nil:
			t.Errorf("%s took a block with %s: what an operator mistypes must not be passed over", s.targetName(target), unknownSetting)
		case sdk.CodeOf(err) != sdk.CodeInvalid:
			t.Errorf("%s: want code %s, got %s: %v", s.targetName(target), sdk.CodeInvalid, sdk.CodeOf(err), err)
		case !strings.Contains(err.Error(), unknownSetting):
			t.Errorf("%s: the reason does not name %s: %v", s.targetName(target), unknownSetting, err)
		}
	}
	s.mustBeWell(t, p)
}

// unknownField is field 2047 of a message, a varint: no version has it.
func unknownField() []byte { return []byte{0xf8, 0x7f, 0x01} }

func (s *subject) unknownMessageFields(t sdktest.T) {
	p := s.start(t)
	client := rpcpb.NewPluginServiceClient(p.Conn())
	info, configure := &rpcpb.InfoRequest{}, &rpcpb.ConfigureRequest{}
	info.ProtoReflect().SetUnknown(unknownField())
	if _, err := client.Info(s.soon(t), info); err != nil {
		t.Errorf("info: %v", err)
	}
	for _, target := range s.targets() {
		configure.Config = s.config(target)
		if target >= 0 {
			configure.Model = string(s.info.Models[target].Model)
		}
		configure.ProtoReflect().SetUnknown(unknownField())
		if _, err := client.Configure(s.soon(t), configure); err != nil {
			t.Errorf("configure the %s: %v", s.targetName(target), err)
		}
	}
}

func (s *subject) unknownModel(t sdktest.T) {
	p := s.start(t)
	other := p.Client().Model(sdk.Description{Model: "zz_no_such_model", Version: 1})
	_, err := other.ApplyStateChange(s.soon(t), sdk.StateChanges{Batch: sdk.Batch{Model: "zz_no_such_model", Version: 1, Columns: []string{"a"}}})
	if code := sdk.CodeOf(err); code != sdk.CodeUnknownModel && code != sdk.CodeUnsupported {
		t.Errorf("want code %s, got %q: %v", sdk.CodeUnknownModel, code, err)
	}
	s.mustBeWell(t, p)
}

// stream is one call of Apply, message by message.
type stream struct {
	grpc.BidiStreamingClient[rpcpb.ApplyRequest, rpcpb.ApplyReply]
	credits int
}

// open opens the model that the plugin serves first.
func (s *subject) open(t sdktest.T, p *rpc.Process, options ...grpc.CallOption) *stream {
	t.Helper()
	apply, err := rpcpb.NewModelServiceClient(p.Conn()).Apply(s.soon(t), options...)
	if err != nil {
		t.Fatalf("apply: %v", err)
	}
	if err := apply.Send(&rpcpb.ApplyRequest{Model: string(s.info.Models[0].Model)}); err != nil && !errors.Is(err, io.EOF) {
		t.Fatalf("open the model: %v", err)
	}
	first, err := apply.Recv()
	if err != nil {
		t.Fatalf("open the model: %v", err)
	}
	if first.Credits == 0 {
		t.Fatal("the first reply grants no credits: nothing could ever be sent")
	}
	return &stream{apply, int(first.Credits)}
}

// request is a batch of rows of the model that the plugin serves first: valid, each with so many bytes of a newer schema.
func (s *subject) request(id uint64, rows, bytes int) *rpcpb.ApplyRequest {
	batch := sdktest.PlainBatch(s.info.Models[0], rows, bytes)
	origin := sdk.DeviceID{1}
	return &rpcpb.ApplyRequest{
		Id: id, Origin: origin[:], Shared: s.info.Models[0].Ownership != sdk.DeviceOwned,
		Batch: &rpcpb.Batch{Model: string(batch.Model), Version: batch.Version, Columns: batch.Columns, Count: uint32(batch.Count), Rows: batch.Rows}, //nolint:gosec // small
	}
}

func (s *subject) manyAtOnce(t sdktest.T) {
	p := s.started(t, 0)
	apply := s.open(t, p)
	const rounds = 20
	waiting := map[uint64]bool{}
	for round := range rounds {
		for i := range apply.credits {
			id := uint64(round*apply.credits + i + 1) //nolint:gosec // small
			waiting[id] = true
			if err := apply.Send(s.request(id, 1+i, 10)); err != nil && !errors.Is(err, io.EOF) {
				t.Fatalf("send batch %d: %v", id, err)
			}
		}
		for len(waiting) > 0 {
			reply, err := apply.Recv()
			if err != nil {
				t.Fatalf("%d batches had no answer: %v", len(waiting), err)
			}
			if !waiting[reply.Id] {
				t.Fatalf("an answer to batch %d, which was not asked or answered before", reply.Id)
			}
			if reply.Error != nil || len(reply.Refused) > 0 {
				t.Fatalf("a batch of valid changes: error %v, refused %v", reply.Error, reply.Refused)
			}
			delete(waiting, reply.Id)
		}
	}
}

func (s *subject) greatestBatch(t sdktest.T) {
	const rows, size = 60, 1<<20 - 1<<10
	p := s.started(t, 0)
	apply := s.open(t, p, grpc.MaxCallRecvMsgSize(2*rpc.MaxMessageBytes))
	if err := apply.Send(s.request(1, rows, size)); err != nil && !errors.Is(err, io.EOF) {
		t.Fatalf("send: %v", err)
	}
	reply, err := apply.Recv()
	switch {
	case err != nil:
		t.Errorf("a batch of %d MiB: %v", rows*size>>20, err)
	case reply.Error != nil && sdk.Code(reply.Error.Code) != sdk.CodeTooLarge: // of its answer
		t.Errorf("a batch of %d MiB: %s", rows*size>>20, reply.Error.Message)
	case len(reply.Refused) > 0:
		t.Errorf("rows of %d bytes were refused: %s", size, reply.Refused[0].Message)
	}
	s.mustBeWell(t, p)
}

func (s *subject) tooLarge(t sdktest.T) {
	p := s.start(t)
	request := &rpcpb.ConfigureRequest{Config: bytes.Repeat([]byte(" "), rpc.MaxMessageBytes+1)}
	if s.servesModels() {
		request.Model = string(s.info.Models[0].Model)
	}
	whole := grpc.MaxCallSendMsgSize(2 * rpc.MaxMessageBytes)
	if _, err := rpcpb.NewPluginServiceClient(p.Conn()).Configure(s.soon(t), request, whole); err == nil {
		t.Error("a config block over the limit was taken")
	} else if code := status.Code(err); code == codes.Unavailable {
		t.Errorf("the connection broke: %v", err)
	}
	s.mustBeWell(t, p)
	if !s.servesModels() {
		return
	}
	apply := s.open(t, p, whole)
	_ = apply.Send(s.request(1, 65, 1<<20-1<<10)) // Recv says what came of it
	if reply, err := apply.Recv(); err == nil && reply.Error == nil {
		t.Error("a batch over the limit was taken")
	} else if status.Code(err) == codes.Unavailable {
		t.Errorf("the connection broke: %v", err)
	}
	s.mustBeWell(t, p)
	again := s.open(t, p)
	if err := again.Send(s.request(1, 1, 10)); err != nil {
		t.Fatalf("send another batch: %v", err)
	}
	if reply, err := again.Recv(); err != nil || reply.Error != nil {
		t.Errorf("another batch after it: %v %v", reply, err)
	}
}

func (s *subject) drain(t sdktest.T) {
	p := s.start(t)
	if err := p.Client().Drain(s.soon(t)); err != nil {
		t.Fatalf("drain: %v", err)
	}
	for i := range s.info.Models {
		batch := sdktest.PlainBatch(s.info.Models[i], 1, 10)
		var err error
		if s.info.Models[i].Ownership == sdk.DeviceOwned {
			_, err = p.Client().Model(s.info.Models[i]).ApplyStateChange(s.soon(t), sdk.StateChanges{Batch: batch})
		} else {
			_, err = p.Client().Model(s.info.Models[i]).ApplySharedChange(s.soon(t), sdk.SharedChanges{Batch: batch})
		}
		if sdk.CodeOf(err) != sdk.CodeUnavailable {
			t.Errorf("a batch of %s after the drain: want code %s, got %q: %v", s.info.Models[i].Model, sdk.CodeUnavailable, sdk.CodeOf(err), err)
		}
	}
	if err := p.Client().Drain(s.soon(t)); err != nil {
		t.Errorf("drain again: %v", err)
	}
	lives(t, p)
}

func (s *subject) stops(t sdktest.T) {
	if err := s.start(t).Stop(s.soon(t)); err != nil {
		t.Error(err)
	}
}

// goneWait is how long a plugin may outlive its host. What the SDK does takes some milliseconds.
const goneWait = 5 * time.Second

func (s *subject) hostGone(t sdktest.T) {
	p := s.start(t)
	if !p.Orphan() {
		t.Skip("this system has no pipe by which a plugin notices: it looks whether its host's process is there")
	}
	select {
	case <-p.Done():
	case <-time.After(goneWait):
		t.Errorf("it still ran %s after its end of the lifeline pipe (descriptor 3) had closed", goneWait)
	}
}

// hostSocket checks the law of sdktest by that name for a process, which takes the socket over at its start.
func (s *subject) hostSocket(t sdktest.T) {
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Skipf("no loopback socket here: %v", err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	if _, ok := socket.(rpc.FileListener); !ok {
		t.Skip("this system passes no sockets on")
	}
	address := socket.Addr().String()
	p := s.started(t, -1, rpc.Socket{Address: address, Listener: socket.(rpc.FileListener)}) //nolint:forcetypeassert // seen above
	transport := p.Client().Transport(s.info.Transport)
	listener, err := transport.Listen(s.soon(t), address, socket)
	if sdk.CodeOf(err) == sdk.CodeUnsupported {
		t.Skipf("it takes no socket of the host: %v", err)
	}
	if err != nil {
		t.Fatalf("listen on the host's socket: %v", err)
	}
	defer func() { _ = listener.Close() }()
	if err := s.exchange(t, transport, listener); err != nil {
		t.Error(err)
	}
}

// exchange sends a greeting through a connection of its own.
func (s *subject) exchange(t sdktest.T, transport sdk.Transport, listener sdk.Listener) error {
	ctx := s.soon(t)
	const greeting = "hello"
	var group errgroup.Group
	group.Go(func() error {
		accepted, err := listener.Accept()
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		t.Cleanup(func() { _ = accepted.Close() })
		_, err = accepted.Write([]byte(greeting))
		return err
	})
	dialled, err := transport.Dial(ctx, listener.Address())
	if err != nil {
		_ = listener.Close() // ends Accept
		return errors.Join(fmt.Errorf("dial: %w", err), group.Wait())
	}
	defer context.AfterFunc(ctx, func() { _ = dialled.Close() })()
	defer func() { _ = dialled.Close() }()
	got := make([]byte, len(greeting))
	if _, err := io.ReadFull(dialled, got); err != nil || string(got) != greeting {
		return fmt.Errorf("got %q: %w", got, err)
	}
	return group.Wait()
}
