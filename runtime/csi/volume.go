package csi

import (
	"fmt"
	"path/filepath"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/millrace/millrace/apis/contract"
)

// volume is what the attributes of a PersistentVolume say.
type volume struct {
	path    string // where the FUSE is mounted
	sub     string // relative to path; empty for all of it
	label   string // the node label that asks for the FUSE pod; empty for none
	symlink bool
	runtime string // <ns>/<name>, for messages
}

func parseVolume(attrs map[string]string, mountRoot string) (volume, error) {
	v := volume{
		path:    attrs[contract.AttrFluidPath],
		sub:     strings.Trim(attrs[contract.AttrSubPath], "/"),
		label:   attrs[contract.AttrFuseNodeLabel],
		runtime: attrs[contract.AttrRuntimeNamespace] + "/" + attrs[contract.AttrRuntimeName],
	}
	if v.path == "" {
		return v, invalid(contract.AttrFluidPath, "is missing")
	}
	if filepath.Clean(v.path) != v.path || !below(v.path, mountRoot) {
		return v, invalid(contract.AttrFluidPath, "%q is not a clean path below %s", v.path, mountRoot)
	}
	if v.sub != "" && !filepath.IsLocal(v.sub) {
		return v, invalid(contract.AttrSubPath, "%q leads out of the volume", v.sub)
	}
	if v.label != "" {
		if !strings.HasPrefix(v.label, contract.FuseNodeLabelPrefix) {
			return v, invalid(contract.AttrFuseNodeLabel, "%q does not begin with %s", v.label, contract.FuseNodeLabelPrefix)
		}
		if problems := validation.IsQualifiedName(v.label); len(problems) > 0 {
			return v, invalid(contract.AttrFuseNodeLabel, "%q is no label: %s", v.label, strings.Join(problems, "; "))
		}
	}
	switch method := attrs[contract.AttrNodePublishMethod]; method {
	case "", "bind-mount", "bindMount":
	case contract.PublishMethodSymlink:
		v.symlink = true
	default:
		return v, invalid(contract.AttrNodePublishMethod, "%q is unknown; leave it out or use %s", method, contract.PublishMethodSymlink)
	}
	return v, nil
}

func invalid(attr, format string, args ...any) error {
	return status.Error(codes.InvalidArgument, fmt.Sprintf("volume attribute %s ", attr)+fmt.Sprintf(format, args...))
}

// below tells whether a clean path lies strictly below dir.
func below(path, dir string) bool { return strings.HasPrefix(path, dir+"/") }
