// Package kinds opens a source by the scheme of its mount point.
package kinds

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/hdfs"
	"github.com/millrace/millrace/runtime/source/http"
	"github.com/millrace/millrace/runtime/source/posix"
	"github.com/millrace/millrace/runtime/source/s3"
)

// Open opens a source; ErrInvalid names the schemes that are known.
func Open(ctx context.Context, c source.Config) (source.Store, error) {
	scheme, _, found := strings.Cut(c.MountPoint, "://")
	if !found {
		return nil, fmt.Errorf("open source %q: write it as scheme://…, such as s3://bucket/prefix or pvc://claim: %w", c.MountPoint, source.ErrInvalid)
	}
	if claim, sub, ok := contract.PVCClaim(c.MountPoint); ok {
		return posix.OpenBelow(contract.PVCDir(claim), sub, c)
	}
	if dir, ok := contract.SourceDir(c.MountPoint); ok {
		return posix.OpenBelow(dir, "", c)
	}
	if scheme == "pvc" {
		return nil, fmt.Errorf("open source %s: write it as pvc://claim or pvc://claim/directory: %w", c.MountPoint, source.ErrInvalid)
	}
	if slices.Contains(contract.SchemesS3, scheme) {
		return s3.Open(ctx, c)
	}
	if scheme == "hdfs" {
		return hdfs.Open(c)
	}
	if scheme == "http" || scheme == "https" {
		return http.Open(ctx, c)
	}
	return nil, fmt.Errorf("open source %s: scheme %q is none of pvc, local, hdfs, http, https, %s; sftp, webdav, gcs, azblob and others need the engine cache-rclone: %w", c.MountPoint, scheme, strings.Join(contract.SchemesS3, ", "), source.ErrInvalid)
}
