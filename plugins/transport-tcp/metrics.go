package main

import (
	"context"
	"errors"
	"net"

	"github.com/starling-sync/starling/sdk"
)

// metrics are what an operator can watch of the transport. The zero value counts nothing.
type metrics struct {
	open                      *sdk.MetricGauge // connections
	dials, accepts            *sdk.MetricCounter
	refusals, silences, other *sdk.MetricCounter // dials that failed, each in one of them
	acceptFailures            *sdk.MetricCounter
	received, sent            *sdk.MetricCounter // bytes
}

func newMetrics(set *sdk.Metrics) metrics {
	return metrics{
		open:           set.Gauge("tcp_connections", "Connections that are open."),
		dials:          set.Counter("tcp_dials_total", "Connections that were made to peers."),
		accepts:        set.Counter("tcp_accepts_total", "Connections that were taken, of peers or of whoever connects."),
		refusals:       set.Counter("tcp_dials_refused_total", "Dials that were refused, since nothing listens at the address."),
		silences:       set.Counter("tcp_dials_timed_out_total", "Dials to which nothing answered in time."),
		other:          set.Counter("tcp_dials_failed_total", "Dials that failed otherwise: a name that is not known, or no way there."),
		acceptFailures: set.Counter("tcp_accept_failures_total", "Times that a connection could not be taken, for want of file descriptors mostly; it is tried again."),
		received:       set.Counter("tcp_received_bytes_total", "Bytes that came, TLS included."),
		sent:           set.Counter("tcp_sent_bytes_total", "Bytes that went, TLS included."),
	}
}

// opened counts a connection until it is closed.
func (m metrics) opened(c net.Conn) *conn {
	m.open.Add(1)
	return &conn{Conn: c, metrics: m}
}

// failed counts a dial that failed, unless ctx was cancelled: then who wanted it has given it up, and it says nothing of the peer.
func (m metrics) failed(ctx context.Context, err error) {
	timeout, ok := errors.AsType[net.Error](err)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
	case errors.Is(err, errnoRefused):
		m.refusals.Inc()
	case ok && timeout.Timeout():
		m.silences.Inc()
	default:
		m.other.Inc()
	}
}
