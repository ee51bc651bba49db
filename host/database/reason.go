package database

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"

	"github.com/lib/pq"

	"github.com/starling-sync/starling/sdk"
)

// explain implements engine.
func (p *postgresSchema) explain(err error) error {
	code, why := p.why(err)
	switch {
	case why != "":
		return sdk.Errorf(code, "%s: %s: %w", p.where(), why, known{err})
	case codeOf(err) == "":
		return err
	}
	return sdk.Errorf(sdk.CodeInternal, "%s: %w", p.where(), known{err})
}

// known is an error of the server or the connection whose meaning has been said.
type known struct{ error }

func (k known) Unwrap() error { return k.error }

// reason implements engine.
func (p *postgresSchema) reason(err error) error {
	if said, ok := errors.AsType[known](err); ok {
		err = said.error
	}
	code, why := p.why(err)
	switch {
	case why != "":
		return sdk.Errorf(code, "%s: %w", why, known{err})
	case codeOf(err) == "":
		return err
	}
	return sdk.Errorf(sdk.CodeInternal, "%w", known{err})
}

func (p *postgresSchema) full(err error) bool { return codeOf(err) == diskFull }

// why says what an error means and what to do about it; "" if nothing is known of it. It holds nothing of the dsn but names
// of hosts, databases and roles.
func (p *postgresSchema) why(err error) (sdk.Code, string) {
	_, connecting := errors.AsType[unreachable](err)
	if code := codeOf(err); code != "" {
		if code, why := p.whyRefused(code, connecting); why != "" {
			return code, why
		}
	} else if connecting {
		if code, why := p.whyNotConnected(err); why != "" {
			return code, why
		}
	}
	if gone(err) {
		return sdk.CodeUnavailable, "the server does not answer, or has ended the connection; see that it runs"
	}
	return "", ""
}

// whyRefused is of what a server says.
func (p *postgresSchema) whyRefused(code string, connecting bool) (sdk.Code, string) {
	role, name := p.config.User, p.database()
	switch code {
	case unknownDatabase:
		return sdk.CodeInvalid, fmt.Sprintf("there is no database %s; make it there with: createdb %s, or name another one in the dsn", name, name)
	case wrongPassword:
		return sdk.CodeInvalid, fmt.Sprintf("the server does not let the role %s in: the password is wrong, or there is no such role; set the right ones in the dsn", role)
	case diskFull:
		return sdk.CodeUnavailable, "the server's disk is full; free some space there and try again"
	case lockNotAvailable:
		return sdk.CodeUnavailable, "another session holds a lock on a table (see pg_locks there); end it and try again"
	case tooManyConnections:
		return sdk.CodeUnavailable, "the server takes no more connections; raise max_connections there (or the limit of the role or database), or close some"
	case readOnlyTransaction:
		return sdk.CodeUnavailable, "the server takes no writes now; is it a standby?"
	case insufficientRight:
		return sdk.CodeInvalid, fmt.Sprintf("the role %s lacks a right; grant what the server names", role)
	case cannotConnectNow:
		return sdk.CodeUnavailable, "the server is starting, or is being stopped; try again in a moment"
	case adminShutdown, crashShutdown:
		return sdk.CodeUnavailable, "the server was stopped, or an administrator ended the connection; see that it runs"
	}
	switch {
	case strings.HasPrefix(code, "28"):
		return sdk.CodeInvalid, fmt.Sprintf("the server does not let the role %s in; see that the role is there, and that a line of the server's pg_hba.conf lets it into the database %s from this machine, with the dsn's sslmode (%s)",
			role, name, p.config.SSLMode)
	case connecting && (strings.HasPrefix(code, "42") || strings.HasPrefix(code, "22")):
		return sdk.CodeInvalid, "the server does not take a parameter of the dsn; correct the parameter, or remove it"
	}
	return "", ""
}

// whyNotConnected is of what keeps this host from speaking with a server at all.
func (p *postgresSchema) whyNotConnected(err error) (sdk.Code, string) {
	if code, why := p.whyNoTLS(err); why != "" {
		return code, why
	}
	if name, ok := errors.AsType[*net.DNSError](err); ok {
		return sdk.CodeUnavailable, fmt.Sprintf("the name service tells no address of %s now; see the network and this machine's name service, or correct the dsn if the server is called otherwise", name.Name)
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		return sdk.CodeUnavailable, fmt.Sprintf("the server did not answer within %s; see that it runs, and that nothing between swallows what is sent to it", p.config.ConnectTimeout)
	}
	switch {
	case errors.Is(err, errnoRefused):
		return sdk.CodeUnavailable, "nothing listens there; see that the server runs, and listens at this address"
	case errors.Is(err, errnoHostUnreachable), errors.Is(err, errnoNetUnreachable):
		return sdk.CodeUnavailable, "there is no way to the server's machine now; see the network"
	case strings.HasPrefix(p.config.Host, "/") && errors.Is(err, fs.ErrNotExist):
		return sdk.CodeUnavailable, "there is no socket of a server in this folder; see that the server runs, and its unix_socket_directories"
	case strings.HasPrefix(p.config.Host, "/") && errors.Is(err, fs.ErrPermission):
		return sdk.CodeInvalid, "this user may not connect to the server's socket; see its permissions"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, errnoReset):
		return sdk.CodeUnavailable, "what listens there hung up at once; see that it is a PostgreSQL server, and its log"
	case !transient(err):
		return sdk.CodeInvalid, "this host and the server do not come together as the dsn says; correct it"
	}
	return "", ""
}

// transient reports an error of the network, or one of the driver's that a later attempt may not meet.
func transient(err error) bool {
	_, network := errors.AsType[*net.OpError](err)
	return network || errors.Is(err, context.Canceled) || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded)
}

// whyNoTLS is of TLS, and of the files that it needs.
func (p *postgresSchema) whyNoTLS(err error) (sdk.Code, string) {
	if file, ok := errors.AsType[*fs.PathError](err); ok {
		return sdk.CodeInvalid, fmt.Sprintf("the file %s for TLS can not be read; correct sslrootcert, sslcert or sslkey in the dsn, or let this user read the file", file.Path)
	}
	if errors.Is(err, pq.ErrSSLNotSupported) {
		return sdk.CodeInvalid, fmt.Sprintf("the server offers no TLS, which sslmode=%s wants; set ssl = on there, or sslmode=disable in the dsn where the server is on this machine", p.config.SSLMode)
	}
	if errors.Is(err, pq.ErrSSLKeyHasWorldPermissions) || errors.Is(err, pq.ErrSSLKeyUnknownOwnership) {
		return sdk.CodeInvalid, fmt.Sprintf("others can read the key of this host's certificate, %s; let nobody but its owner read it: chmod 0600", p.config.SSLKey)
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return sdk.CodeInvalid, "the server's certificate is of an authority that is not trusted here; name the authority's certificate, a PEM file, with sslrootcert in the dsn"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return sdk.CodeInvalid, fmt.Sprintf("the server's certificate is not for %s; name the server in the dsn as its certificate does, or give it one for this name", p.config.Host)
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		if invalid.Reason == x509.Expired {
			return sdk.CodeInvalid, "the server's certificate has expired, or is not valid yet; renew it there, or set this machine's clock"
		}
		return sdk.CodeInvalid, "the server's certificate can not be used; see what is wrong with it"
	}
	if alert, ok := errors.AsType[*net.OpError](err); ok && alert.Op == "remote error" { // as crypto/tls calls an alert
		return sdk.CodeInvalid, "the server refused the TLS of this host; see its log, and sslcert and sslkey in the dsn if it wants a client's certificate"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return sdk.CodeInvalid, "the server's certificate can not be verified"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return sdk.CodeInvalid, "what listens there does not speak TLS as PostgreSQL does; see the host and the port of the dsn"
	}
	return "", ""
}
