// Command protogen compiles the .proto files that it is given and writes the
// Go code next to them. It stands in for protoc, which is no Go module.
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

// plugins are run from their modules, in the versions that go.mod and this list pin.
var plugins = []string{
	"google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.8",
	"google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.5.1",
}

func main() {
	for _, file := range os.Args[1:] {
		if err := generate(context.Background(), file); err != nil {
			fmt.Fprintln(os.Stderr, "protogen:", err)
			os.Exit(1)
		}
	}
}

func generate(ctx context.Context, file string) error {
	dir, name := filepath.Split(file)
	compiler := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{dir}}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	files, err := compiler.Compile(ctx, name)
	if err != nil {
		return fmt.Errorf("compile %s: %w", file, err)
	}
	param := "paths=source_relative"
	req := &pluginpb.CodeGeneratorRequest{
		FileToGenerate: []string{name},
		Parameter:      &param,
		ProtoFile:      []*descriptorpb.FileDescriptorProto{protoutil.ProtoFromFileDescriptor(files[0])},
	}
	in, err := proto.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode request for %s: %w", file, err)
	}
	for _, plugin := range plugins {
		if err := runPlugin(ctx, plugin, in, dir); err != nil {
			return fmt.Errorf("generate %s with %s: %w", file, plugin, err)
		}
	}
	return nil
}

func runPlugin(ctx context.Context, plugin string, in []byte, dir string) error {
	cmd := exec.CommandContext(ctx, "go", "run", plugin)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	resp := &pluginpb.CodeGeneratorResponse{}
	if err := proto.Unmarshal(out, resp); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	if resp.Error != nil {
		return fmt.Errorf("plugin says: %s", *resp.Error)
	}
	for _, f := range resp.File {
		if err := os.WriteFile(filepath.Join(dir, f.GetName()), []byte(f.GetContent()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
