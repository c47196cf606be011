// Command stage plays the parts around Millrace in the demo and the suite.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/millrace/millrace/e2e/stage"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{Use: "stage", SilenceUsage: true}
	root.AddCommand(remoteStore(), seed(), copyFile(), fetch(), wait())
	if err := root.ExecuteContext(ctx); err != nil && ctx.Err() == nil {
		os.Exit(1)
	}
}

func remoteStore() *cobra.Command {
	var data, mount, rate string
	var files map[string]string
	c := &cobra.Command{
		Use: "remote-store", Short: "mount seeded files behind a bandwidth limit", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			limit, err := resource.ParseQuantity(rate)
			if err != nil {
				return fmt.Errorf("--rate %q: %w", rate, err)
			}
			for name, size := range files {
				q, err := resource.ParseQuantity(size)
				if err != nil {
					return fmt.Errorf("--file %s: size %q: %w", name, size, err)
				}
				if err := stage.WriteFile(data, name, q.Value()); err != nil {
					return err
				}
			}
			return stage.RemoteStore(c.Context(), data, mount, limit.Value())
		},
	}
	c.Flags().StringVar(&data, "data", "/data", "directory of the files")
	c.Flags().StringVar(&mount, "mount", "/remote", "where to mount them")
	c.Flags().StringVar(&rate, "rate", "200M", "bytes a second, as a quantity")
	c.Flags().StringToStringVar(&files, "file", nil, "name=size of a file to make")
	return c
}

func seed() *cobra.Command {
	to := stage.S3{AccessKey: os.Getenv("ACCESS_KEY"), SecretKey: os.Getenv("SECRET_KEY")}
	var large, small string
	var count int
	c := &cobra.Command{
		Use: "seed", Short: "put objects into a bucket", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := resource.ParseQuantity(large)
			if err != nil {
				return fmt.Errorf("--large %q: %w", large, err)
			}
			s, err := resource.ParseQuantity(small)
			if err != nil {
				return fmt.Errorf("--small %q: %w", small, err)
			}
			return stage.Seed(c.Context(), to, append(stage.SmallObjects(count, s.Value()), stage.Object{Name: "model.bin", Size: l.Value()}))
		},
	}
	c.Flags().StringVar(&to.Endpoint, "endpoint", "", "URL of the S3 server")
	c.Flags().StringVar(&to.Bucket, "bucket", "", "bucket to make and fill")
	c.Flags().StringVar(&large, "large", "1Gi", "size of model.bin")
	c.Flags().StringVar(&small, "small", "64Ki", "size of each small object")
	c.Flags().IntVar(&count, "count", 2000, "how many small objects")
	return c
}

func copyFile() *cobra.Command {
	var runs int
	var digest bool
	c := &cobra.Command{
		Use: "copy FILE...", Short: "read files to their end and print bytes and seconds as JSON", Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, files []string) error {
			for _, file := range files {
				for range runs {
					got, err := stage.Copy(file, digest)
					if err != nil {
						return err
					}
					if err := json.NewEncoder(os.Stdout).Encode(got); err != nil {
						return err
					}
				}
			}
			return nil
		},
	}
	c.Flags().IntVar(&runs, "runs", 1, "how often to read each file")
	c.Flags().BoolVar(&digest, "sha256", false, "also print the digest")
	return c
}

func fetch() *cobra.Command {
	return &cobra.Command{
		Use: "fetch URL", Short: "get a page, trying until it is there", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			page, err := stage.Fetch(c.Context(), args[0])
			fmt.Print(page)
			return err
		},
	}
}

func wait() *cobra.Command {
	return &cobra.Command{
		Use: "wait", Short: "do nothing until told to stop, so that others can exec here", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			<-c.Context().Done()
			return nil
		},
	}
}
