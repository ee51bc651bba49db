// Command badtag serves the tag and tagging models as plugins/tag does, until it does what mode says.
package main

import (
	"context"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

var mode string // set when it is built

// Tag is plugins/tag's, and with mode newer a version more.
type Tag struct {
	sdk.Shared
	Name        string  `starling:"name,required,index"`
	Color       string  `starling:"color"`
	Description string  `starling:"description"`
	Parent      sdk.Ref `starling:"parent_id,ref=tag"`
}

// NewerTag has a field that every device must write.
type NewerTag struct {
	sdk.Shared
	Name        string  `starling:"name,required,index"`
	Color       string  `starling:"color"`
	Description string  `starling:"description"`
	Parent      sdk.Ref `starling:"parent_id,ref=tag"`
	Owner       string  `starling:"owner,required"`
}

// NextTag has a field that nobody needs to write.
type NextTag struct {
	sdk.Shared
	Name        string  `starling:"name,required,index"`
	Color       string  `starling:"color"`
	Description string  `starling:"description"`
	Parent      sdk.Ref `starling:"parent_id,ref=tag"`
	Shade       string  `starling:"shade"`
}

// Tagging is plugins/tag's.
type Tagging struct {
	sdk.Shared
	Tag    sdk.Ref    `starling:"tag_id,ref=tag,key"`
	Target sdk.AnyRef `starling:"target,key"`
}

type server struct {
	sdk.ModelServer
	batches atomic.Int64
}

func (s *server) ApplySharedChange(ctx context.Context, in sdk.SharedChanges) (sdk.SharedResult, error) {
	out, err := s.ModelServer.ApplySharedChange(ctx, in)
	if s.batches.Add(1) < 100 {
		return out, err
	}
	switch mode {
	case "slow-hundredth":
		time.Sleep(100 * time.Millisecond)
	case "crash-hundredth":
		os.Exit(5)
	case "hang-hundredth":
		<-make(chan struct{})
	case "wrong-hundredth": // a merge that goes wrong
		for i := range out.Records {
			for k := range out.Records[i].Fields {
				if f := &out.Records[i].Fields[k]; f.Name == "name" {
					f.Value = strings.ToUpper(f.Value.(string))
				}
			}
		}
	case "strange-hundredth", "next-strange": // an answer that can not be stored
		out.Records = append(out.Records, sdk.Record{ID: sdk.RecordID{1}})
	}
	return out, err
}

func main() {
	switch mode {
	case "crash-start":
		os.Exit(3)
	case "crash-second":
		time.AfterFunc(time.Second, func() { os.Exit(4) })
	case "newer":
		rpc.Serve(sdk.Model[NewerTag]{Name: "tag", Version: 2}, sdk.Model[Tagging]{Name: "tagging", Version: 1})
		return
	}
	if strings.HasPrefix(mode, "next") {
		rpc.Serve(&server{ModelServer: sdk.Model[NextTag]{Name: "tag", Version: 2}}, sdk.Model[Tagging]{Name: "tagging", Version: 1})
		return
	}
	rpc.Serve(&server{ModelServer: sdk.Model[Tag]{Name: "tag", Version: 1}}, sdk.Model[Tagging]{Name: "tagging", Version: 1})
}
