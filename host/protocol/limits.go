package protocol

import "time"

// Over is the cause of an error about something that was over a limit, and names the limit's setting, such as frame_bytes.
// What is counted of refused input is counted by it.
type Over string

func (o Over) Error() string { return "over the limit " + string(o) }

// Overs returns every Over that there is, by name.
func Overs() []Over {
	return []Over{
		"batches", "columns", "decoded_bytes", "epochs", "frame_bytes", "handshake_time", "heads", "marks", "max_page_bytes", "members_bytes", "models",
		"origins", "ranges", "send_time", "text_bytes", "window_bytes",
	}
}

// Limits bounds what a peer can make this device hold or wait for. A frame beyond them is an error, and ends its
// connection only.
type Limits struct {
	FrameBytes     int           // payload of a frame on the wire
	DecodedBytes   int           // payload of a frame after decompression
	PageBytes      int           // pages are cut at about this size
	MaxPageBytes   int           // a page is never larger, so that it fits a frame
	WindowBytes    int           // unacknowledged pages of one session and kind
	Batches        int           // in a page
	Columns        int           // in a batch
	Marks          int           // in a vector or a request; in a heartbeat all together
	Heads          int           // positions that somebody has in one stream, or that an epoch continues
	Epochs         int           // in a message
	Origins        int           // whose changes a page of a snapshot holds; whose vectors a heartbeat does
	Ranges         int           // of a model in an audit, and in a repair
	Models         int           // in a Hello, a page of a snapshot or an audit
	TextBytes      int           // of a name, an address or a message
	MembersBytes   int           // of Welcome.Members
	HandshakeTime  time.Duration // from connected to both Hellos exchanged
	SendTime       time.Duration // for a piece of what is sent to leave
	CompressBeyond int           // payloads larger than this are compressed
}

// DefaultLimits returns the limits that every device is expected to keep.
func DefaultLimits() Limits {
	return Limits{
		FrameBytes:     1<<20 + 1<<19,
		DecodedBytes:   2 << 20,
		PageBytes:      256 << 10,
		MaxPageBytes:   1<<20 + 1<<18,
		WindowBytes:    4 << 20,
		Batches:        8192,
		Columns:        1024,
		Marks:          16384,
		Heads:          64,
		Epochs:         4096,
		Origins:        4096,
		Ranges:         16384,
		Models:         1024,
		TextBytes:      4096,
		MembersBytes:   1 << 20,
		HandshakeTime:  10 * time.Second,
		SendTime:       30 * time.Second,
		CompressBeyond: 512,
	}
}
