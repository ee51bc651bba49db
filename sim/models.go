package main

import (
	"github.com/starling-sync/starling/sdk"
)

// Folder is device-owned and refers to its own kind, to a shared record, and weakly to anything.
type Folder struct {
	sdk.Owned
	Name   string     `starling:"name"`
	Size   int64      `starling:"size"`
	Parent sdk.Ref    `starling:"parent,ref=folder"`
	Topic  sdk.Ref    `starling:"topic,ref=topic"`
	Cover  sdk.AnyRef `starling:"cover,weak"`
}

// Topic is shared, with a field of each merge kind, and refers to its own kind and to a device-owned record.
type Topic struct {
	sdk.Shared
	Title  string  `starling:"title"`
	Color  string  `starling:"color"`
	High   int64   `starling:"high,max"`
	Low    int64   `starling:"low,min"`
	Parent sdk.Ref `starling:"parent,ref=topic"`
	Folder sdk.Ref `starling:"folder,ref=folder"`
}

// Tie joins a topic to anything, once: its id is its natural key.
type Tie struct {
	sdk.Shared
	Topic  sdk.Ref    `starling:"topic,ref=topic,key"`
	Target sdk.AnyRef `starling:"target,key"`
	Note   string     `starling:"note"`
}

// Member is a device of the library, as the library itself keeps it.
type Member struct {
	sdk.Shared
	Device int64 `starling:"device,key"`
}

const (
	folderModel sdk.ModelName = "folder"
	topicModel  sdk.ModelName = "topic"
	tieModel    sdk.ModelName = "tie"
	memberModel sdk.ModelName = "member"
)

var modelNames = [...]sdk.ModelName{folderModel, memberModel, tieModel, topicModel}

// columns of each model as its schema orders them.
func columnsOf(model sdk.ModelName) []string {
	switch model {
	case folderModel:
		return []string{"name", "size", "parent", "topic", "cover"}
	case topicModel:
		return []string{"title", "color", "high", "low", "parent", "folder"}
	case tieModel:
		return []string{"topic", "target", "note"}
	}
	return []string{"device"}
}

// required are the columns whose record must be visible, with the model that they must be of ("": any).
func required(model sdk.ModelName) map[string]sdk.ModelName {
	switch model {
	case folderModel:
		return map[string]sdk.ModelName{"parent": folderModel, "topic": topicModel}
	case topicModel:
		return map[string]sdk.ModelName{"parent": topicModel, "folder": folderModel}
	case tieModel:
		return map[string]sdk.ModelName{"topic": topicModel, "target": ""}
	}
	return nil
}

func mergeOf(model sdk.ModelName, column string) sdk.Merge {
	if model == topicModel && column == "high" {
		return sdk.Max
	}
	if model == topicModel && column == "low" {
		return sdk.Min
	}
	return sdk.LWW
}

func servers() []sdk.ModelServer {
	return []sdk.ModelServer{
		sdk.Model[Member]{Name: memberModel, Version: 1}, sdk.Model[Topic]{Name: topicModel, Version: 1},
		sdk.Model[Folder]{Name: folderModel, Version: 1}, sdk.Model[Tie]{Name: tieModel, Version: 1},
	}
}

func deviceID(n int) sdk.DeviceID { return sdk.DeviceID{0: 0xd0, 6: 0x80, 8: 0x80, 15: byte(n + 1)} }

// folderID is record k of device n.
func folderID(n, k int) sdk.RecordID { return sdk.RecordID{0: 0xf0, 14: byte(n), 15: byte(k)} }

func topicID(k int) sdk.RecordID { return sdk.RecordID{0: 0x70, 15: byte(k)} }
