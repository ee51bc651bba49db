package sdk

import (
	"time"

	"github.com/google/uuid"
	"github.com/tinylib/msgp/msgp"
)

// KeyID returns the id of the record of model whose natural key has these values, in the order of the description's key
// fields: UUIDv5 over the packed model name and values. Values are of the types that Type lists, or Ref, AnyRef, int or
// time.Time, which stand for RecordID, int64 and Unix microseconds. It panics on another type, as AppendValue does.
func KeyID(model ModelName, values ...any) RecordID {
	var packed []byte
	for _, v := range values {
		switch x := v.(type) {
		case Ref:
			v = RecordID(x)
		case AnyRef:
			v = RecordID(x)
		case int:
			v = int64(x)
		case time.Time:
			v = x.UnixMicro()
		}
		packed = AppendValue(packed, v)
	}
	return packedKeyID(model, packed)
}

// packedKeyID is KeyID of packed values back to back. MessagePack values end themselves, so no two keys read alike.
func packedKeyID(model ModelName, packed []byte) RecordID {
	// The namespace is part of the format: another one would give every keyed record another id.
	namespace := uuid.UUID{0x5b, 0x0c, 0x6e, 0x1d, 0x2f, 0x5a, 0x4a, 0x67, 0x9c, 0x2e, 0x8d, 0x41, 0x73, 0xb0, 0x19, 0xe4}
	data := make([]byte, 0, len(model)+len(packed)+5)
	data = msgp.AppendString(data, string(model))
	return RecordID(uuid.NewSHA1(namespace, append(data, packed...)))
}
