package verify

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"

	"github.com/starling-sync/starling/sdk/rpc"
	"github.com/starling-sync/starling/sdk/rpc/rpcpb"
	"github.com/starling-sync/starling/sdk/sdktest"
)

// garbage sends what no host sends.
func (s *subject) garbage(t sdktest.T) {
	p := s.start(t)
	client := rpcpb.NewPluginServiceClient(p.Conn())
	for _, config := range []string{"", "{", "[]", "null", `"text"`, "\xff\xfe", `{"a":{"b":[`} {
		for _, target := range s.targets() {
			request := &rpcpb.ConfigureRequest{Config: []byte(config)}
			if target >= 0 {
				request.Model = string(s.info.Models[target].Model)
			}
			_, _ = client.Configure(s.soon(t), request) // an error is as good as none
		}
	}
	s.mustBeWell(t, p)
	if s.servesModels() {
		s.garbageBatches(t, p)
	}
	if s.info.Transport != "" {
		s.garbageConnections(t, p)
	}
	s.mustBeWell(t, p)
}

// garbageBatches sends malformed batches, each of which must be answered.
func (s *subject) garbageBatches(t sdktest.T, p *rpc.Process) {
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // no secret
	apply := s.open(t, p)
	for id := uint64(1); id <= 300; id++ {
		request := s.request(id, 3, 20)
		what := spoil(random, request)
		err := apply.Send(request)
		var reply *rpcpb.ApplyReply
		if err == nil || errors.Is(err, io.EOF) {
			reply, err = apply.Recv()
		}
		switch {
		case err != nil:
			lives(t, p)
			t.Fatalf("%s: instead of an answer, the stream ended: %v", what, err)
		case reply.Id != id:
			t.Fatalf("%s: answered as batch %d, not %d", what, reply.Id, id)
		}
	}
}

// spoil breaks one thing of a valid request and says which.
func spoil(random *rand.Rand, request *rpcpb.ApplyRequest) string {
	b := request.Batch
	switch random.IntN(10) {
	case 0:
		b.Rows = b.Rows[:random.IntN(len(b.Rows))]
		return "rows that are cut off"
	case 1:
		for range 1 + random.IntN(8) {
			b.Rows[random.IntN(len(b.Rows))] = byte(random.UintN(256))
		}
		return "rows with other bytes in them"
	case 2:
		b.Rows = bytes.Repeat([]byte{byte(random.UintN(256))}, random.IntN(1000))
		return "rows of one byte, repeated"
	case 3:
		b.Count = uint32(random.UintN(1 << 20))
		return "a wrong count"
	case 4:
		b.Columns = b.Columns[:random.IntN(len(b.Columns))]
		return "columns too few"
	case 5:
		b.Columns = append(slices.Clone(b.Columns), b.Columns...)
		return "columns that are named twice"
	case 6:
		request.Origin = request.Origin[:random.IntN(len(request.Origin))]
		return "an origin that is cut off"
	case 7:
		request.Current = bytes.Repeat([]byte{byte(random.UintN(256))}, 1+random.IntN(100))
		return "current records of one byte, repeated"
	case 8:
		request.Shared = !request.Shared
		return "the other kind of change"
	}
	request.Batch = nil
	return "no batch"
}

// garbageConnections opens listeners and connections that can not be opened.
func (s *subject) garbageConnections(t sdktest.T, p *rpc.Process) {
	client := rpcpb.NewTransportServiceClient(p.Conn())
	for what, request := range map[string]*rpcpb.ListenRequest{
		"no address": {}, "no such place": {Address: "\x01not an address"}, "a socket that was not inherited": {Inherited: true, Index: 99},
	} {
		listen, err := client.Listen(s.soon(t))
		if err == nil {
			_ = listen.Send(request) // Recv says what came of it
			_ = listen.CloseSend()
			_, err = listen.Recv()
		}
		if err == nil && what != "no address" { // which may stand for any
			t.Errorf("listen, %s: no error", what)
		}
	}
	for what, first := range map[string]*rpcpb.Chunk{
		"nothing to open": {}, "bytes before it is open": {Data: []byte("x")}, "no such place": {Open: &rpcpb.Chunk_Open{Dial: "\x01not an address"}},
		"a connection that nobody accepted": {Open: &rpcpb.Chunk_Open{Accepted: 1 << 60}},
	} {
		carry, err := client.Carry(s.soon(t))
		if err == nil {
			_ = carry.Send(first) // as above
			_, err = carry.Recv()
		}
		if err == nil {
			t.Errorf("carry, %s: no error", what)
		}
	}
}
