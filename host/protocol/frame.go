// Package protocol is what two devices say to each other: the messages, their encoding and their limits.
//
// It promises that whatever bytes arrive, reading them gives a message within the limits or an error with a code:
// never a panic, and never memory of a size that only the sender vouches for. It leaves to others what a message
// means for the receiver (peersync), which positions in a stream cover which (history), who the peer is (TLS above
// the transport) and what the packed rows hold (the models): rows are carried as bytes.
//
// A frame:
//
//	offset  size  what
//	0       4     n, big endian: how many bytes follow, 2 <= n <= Limits.FrameBytes + 2
//	4       1     type (Type)
//	5       1     flags: bit 0: the payload is one zstd frame; the other bits are zero
//	6       n-2   payload: the protobuf message of that type (wire.proto)
//
// A session begins with a Hello of each side. A message of a type or flag that the version does not have is an
// error: what either side may send is settled by the protocol version that the Hellos have in common.
package protocol

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	"github.com/starling-sync/starling/sdk"
)

const (
	headerBytes = 6
	flagZstd    = 1 << 0
)

// Codec turns messages into frames and back. It may be used by many connections at once.
type Codec struct {
	limits  Limits
	encoder *zstd.Encoder
	decoder *zstd.Decoder
	scratch sync.Pool // *[]byte
}

// NewCodec returns a codec with those limits. It starts nothing and holds no resource that needs closing.
func NewCodec(limits Limits) (*Codec, error) {
	window := 1 << bits.Len(uint(max(limits.DecodedBytes, zstd.MinWindowSize)-1))
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false),
		zstd.WithWindowSize(min(window, 512<<10)), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("make the compressor: %w", err)
	}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(uint64(limits.DecodedBytes)), //nolint:gosec // a positive limit
		zstd.WithDecoderMaxWindow(uint64(window)), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderLowmem(true)) //nolint:gosec // as above
	if err != nil {
		return nil, fmt.Errorf("make the decompressor: %w", err)
	}
	return &Codec{limits: limits, encoder: encoder, decoder: decoder, scratch: sync.Pool{New: func() any { return new([]byte) }}}, nil
}

// Limits returns the codec's limits.
func (c *Codec) Limits() Limits { return c.limits }

// AppendFrame appends m as one frame. It returns CodeTooLarge if m does not fit a frame; dst is then unchanged.
func (c *Codec) AppendFrame(dst []byte, m Message) ([]byte, error) {
	p, err := toProto(m)
	if err != nil {
		return dst, err
	}
	buf := c.get()
	defer c.put(buf)
	payload, err := proto.MarshalOptions{}.MarshalAppend((*buf)[:0], p)
	if err != nil {
		return dst, sdk.Errorf(sdk.CodeInvalid, "encode %s: %w", m.Type(), err)
	}
	*buf = payload
	if len(payload) > c.limits.DecodedBytes {
		return dst, sdk.Errorf(sdk.CodeTooLarge, "encode %s: %d bytes; at most %d are allowed: %w", m.Type(), len(payload), c.limits.DecodedBytes, Over("decoded_bytes"))
	}
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0, byte(m.Type()), 0)
	if len(payload) > c.limits.CompressBeyond {
		dst = c.encoder.EncodeAll(payload, dst)
		dst[start+5] = flagZstd
	}
	if len(payload) <= c.limits.CompressBeyond || len(dst)-start-headerBytes >= len(payload) {
		dst = append(dst[:start+headerBytes], payload...)
		dst[start+5] = 0
	}
	n := len(dst) - start - headerBytes
	if n > c.limits.FrameBytes {
		return dst[:start], sdk.Errorf(sdk.CodeTooLarge, "encode %s: a frame of %d bytes; at most %d are allowed: %w", m.Type(), n, c.limits.FrameBytes, Over("frame_bytes"))
	}
	binary.BigEndian.PutUint32(dst[start:], uint32(n+2)) //nolint:gosec // n is within the frame limit
	return dst, nil
}

// decodePayload reads a frame's payload. The message does not alias payload.
// limit bounds it after decompression.
func (c *Codec) decodePayload(t Type, flags byte, payload []byte, limit int) (Message, error) {
	if flags&^flagZstd != 0 {
		return nil, sdk.Errorf(sdk.CodeUnsupported, "read a frame of type %d: unknown flags %#x", t, flags)
	}
	if flags&flagZstd != 0 {
		buf := c.get()
		defer c.put(buf)
		// The decoder writes into what is there and never beyond: a frame's own claim of its size allocates nothing.
		if cap(*buf) < limit {
			*buf = make([]byte, 0, limit)
		}
		plain, err := c.decoder.DecodeAll(payload, (*buf)[:0:limit])
		switch {
		case errors.Is(err, zstd.ErrDecoderSizeExceeded), errors.Is(err, zstd.ErrWindowSizeExceeded):
			return nil, sdk.Errorf(sdk.CodeTooLarge, "read %s: more than %d bytes after decompression: %w", t, limit, Over("decoded_bytes"))
		case err != nil:
			return nil, sdk.Errorf(sdk.CodeInvalid, "read %s: decompress: %w", t, err)
		}
		payload = plain
	}
	m, err := decode(&c.limits, t, payload)
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeOf(err), "read %s: %w", t, err)
	}
	return m, nil
}

func (c *Codec) get() *[]byte { return c.scratch.Get().(*[]byte) }

func (c *Codec) put(buf *[]byte) {
	if cap(*buf) <= 2*c.limits.DecodedBytes {
		c.scratch.Put(buf)
	}
}

// Reader reads frames from one connection, for one goroutine.
type Reader struct {
	codec *Codec
	r     *bufio.Reader
	bytes int64
}

// NewReader returns a reader of r.
func NewReader(r io.Reader, codec *Codec) *Reader {
	return &Reader{codec: codec, r: bufio.NewReaderSize(r, 64<<10)}
}

// Read blocks for the next message. It returns io.EOF if the connection ended between two frames, and an *sdk.Error if
// the frame is cut short, too large or makes no sense: the connection is of no use after that.
func (r *Reader) Read() (Message, error) {
	return r.read(r.codec.limits.FrameBytes, r.codec.limits.DecodedBytes, nil)
}

// ReadOnly is Read where only messages of these types have a place, of at most limit bytes both on the wire and after
// decompression. Any other frame is refused before its payload is read.
func (r *Reader) ReadOnly(limit int, types ...Type) (Message, error) {
	return r.read(min(limit, r.codec.limits.FrameBytes), min(limit, r.codec.limits.DecodedBytes), types)
}

func (r *Reader) read(most, decoded int, types []Type) (Message, error) {
	var header [headerBytes]byte
	if _, err := io.ReadFull(r.r, header[:1]); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(r.r, header[1:]); err != nil {
		return nil, cut(err)
	}
	n := binary.BigEndian.Uint32(header[:])
	t, flags := Type(header[4]), header[5]
	if n < 2 || int64(n)-2 > int64(most) {
		return nil, sdk.Errorf(sdk.CodeTooLarge, "read a frame of type %d: a length of %d; want 2 to %d: %w", t, n, most+2, Over("frame_bytes"))
	}
	if t < TypeHello || t > lastType {
		return nil, sdk.Errorf(sdk.CodeUnsupported, "a frame of type %d: this version knows %d to %d", t, TypeHello, lastType)
	}
	if types != nil && !slices.Contains(types, t) {
		return nil, sdk.Errorf(sdk.CodeInvalid, "read a frame: %s, want one of %v", t, types)
	}
	buf := r.codec.get()
	defer r.codec.put(buf)
	payload, err := readGrowing(r.r, (*buf)[:0], int(n)-2)
	*buf = payload[:0]
	if err != nil {
		return nil, cut(err)
	}
	r.bytes += int64(n) + 4
	return r.codec.decodePayload(t, flags, payload, decoded)
}

// Bytes returns how many bytes of whole frames have been read.
func (r *Reader) Bytes() int64 { return r.bytes }

// readGrowing reads n bytes into dst, which grows as bytes arrive and not as the sender announced.
func readGrowing(r io.Reader, dst []byte, n int) ([]byte, error) {
	const step = 32 << 10
	for len(dst) < n {
		if len(dst) == cap(dst) {
			grown := make([]byte, len(dst), min(n, max(step, 2*cap(dst))))
			copy(grown, dst)
			dst = grown
		}
		at := len(dst)
		end := min(n, cap(dst))
		got, err := io.ReadFull(r, dst[at:end])
		dst = dst[:at+got]
		if err != nil {
			return dst, err
		}
	}
	return dst, nil
}

func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return sdk.Errorf(sdk.CodeInvalid, "read a frame: cut short: %w", io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("read a frame: %w", err)
}

// Writer writes frames to one connection, for one goroutine.
type Writer struct {
	codec *Codec
	w     io.Writer
	buf   []byte
	bytes int64
}

// NewWriter returns a writer to w.
func NewWriter(w io.Writer, codec *Codec) *Writer { return &Writer{codec: codec, w: w} }

// Add encodes m. It leaves with the next Flush; Buffered says how much waits.
func (w *Writer) Add(m Message) error {
	buf, err := w.codec.AppendFrame(w.buf, m)
	w.buf = buf
	return err
}

// Buffered returns how many bytes wait for Flush.
func (w *Writer) Buffered() int { return len(w.buf) }

// Flush writes what Add encoded, and blocks until the connection has taken it.
func (w *Writer) Flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	n, err := w.w.Write(w.buf)
	w.bytes += int64(n)
	w.buf = w.buf[:0]
	if err != nil {
		return fmt.Errorf("write a frame: %w", err)
	}
	return nil
}

// Write adds m and flushes.
func (w *Writer) Write(m Message) error {
	if err := w.Add(m); err != nil {
		return err
	}
	return w.Flush()
}

// Bytes returns how many bytes have been written.
func (w *Writer) Bytes() int64 { return w.bytes }
