package command

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/millrace/millrace/runtime/component"
	"github.com/millrace/millrace/runtime/standalone"
	"github.com/millrace/millrace/runtime/wire"
)

func (p *program) mount() *cobra.Command {
	var plan standalone.Plan
	o := daemonFlags{program: p}
	c := &cobra.Command{
		Use:   "mount [SOURCE] MOUNTPOINT --cache DIR:SIZE",
		Short: "Mount a source through a cache on this machine, read-only",
		Example: `  millrace mount s3://bucket/prefix /mnt/data --cache /var/cache/millrace:100Gi
  millrace mount /mnt/nfs/data /mnt/data --cache /dev/shm/millrace:8Gi,MEM --cache /ssd/millrace:500Gi
  millrace mount /mnt/data --mount /train=s3://bucket/train --mount /val=hdfs://namenode:8020/val --cache /ssd/millrace:500Gi`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				plan.Source = args[0]
			}
			return o.run(cmd, args[len(args)-1], func(d *standalone.Daemon) (err error) {
				d.Config, err = plan.Config()
				return err
			})
		},
	}
	sourceFlags(c.Flags(), &plan)
	cacheFlags(c.Flags(), &plan)
	o.add(c.Flags())
	c.Flags().StringVar(&o.state, "state-dir", standalone.DefaultStateDir(), "where listings are kept for the next start; empty for nowhere")
	c.Flags().BoolVar(&o.lazy, "lazy", false, "mount although a source does not answer; it is tried again")
	return c
}

func (p *program) client() *cobra.Command {
	var plan standalone.Plan
	o := daemonFlags{program: p}
	c := &cobra.Command{
		Use:   "client MOUNTPOINT --master HOST:PORT",
		Short: "Mount the cache of a master elsewhere, read-only",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd, args[0], func(d *standalone.Daemon) (err error) {
				d.Secrets, plan.Secrets = plan.Secrets, nil // they are for the sources that the master tells of
				d.Config, err = plan.Config()
				return err
			})
		},
	}
	c.Flags().StringVar(&o.master, "master", "", "host:port of the master")
	_ = c.MarkFlagRequired("master")
	c.Flags().StringVar(&o.socket, "worker-socket", standalone.DefaultWorkerSocket(), "Unix socket of the worker on this machine, if there is one")
	secretFlag(c.Flags(), &plan)
	engineFlag(c.Flags(), &plan)
	component.TLSFlags(c.Flags(), &o.tls)
	o.add(c.Flags())
	return c
}

// daemonFlags are those of every command that mounts.
type daemonFlags struct {
	*program
	foreground, lazy                 bool
	name, metrics, profiles, logFile string
	master, socket, state            string
	tls                              wire.TLSFiles
	wait                             time.Duration
}

func (o *daemonFlags) add(f *pflag.FlagSet) {
	f.BoolVarP(&o.foreground, "foreground", "f", false, "stay in the foreground and log to the terminal")
	f.DurationVar(&o.wait, "wait", standalone.DefaultWait, "how long a source, or a master elsewhere, may take to answer")
	f.StringVar(&o.name, "name", "", "label dataset of the metrics (default: the mount point)")
	f.StringVar(&o.metrics, "metrics-address", "", "where to serve Prometheus metrics, such as 127.0.0.1:9410; empty for nowhere")
	f.StringVar(&o.profiles, "pprof", "", "where to serve profiles, such as 127.0.0.1:6060; empty for nowhere")
	f.StringVar(&o.logFile, "log-file", "", "log of the daemon in the background (default: /var/log/millrace/ID.log)")
}

// run is the daemon, or starts it and waits until it is ready.
func (o *daemonFlags) run(cmd *cobra.Command, mountPoint string, configure func(*standalone.Daemon) error) error {
	parent := standalone.FindParent()
	d := &standalone.Daemon{
		RunDir: runDir(cmd), Name: o.name, Lazy: o.lazy, Master: o.master, WorkerSocket: o.socket, StateDir: o.state, TLS: o.tls, Wait: o.wait,
		Metrics: o.metrics, Profiles: o.profiles, Version: o.version, Open: o.open, LogFile: o.logFile, Ready: parent.Ready,
	}
	err := d.At(mountPoint)
	if err == nil {
		err = configure(d)
	}
	if err == nil {
		err = d.Check()
	}
	if err != nil {
		err = component.Hopeless{Err: err}
	} else if parent == nil && !o.foreground {
		pid, err := standalone.Spawn(cmd.Context(), d.LogFile)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "mounted at %s by process %d, which logs to %s\n", d.MountPoint, pid, d.LogFile)
		return err
	} else {
		err = d.Run(cmd.Context())
	}
	if err != nil {
		parent.Failed(err, standalone.ExitCode(err))
	}
	return err
}

func sourceFlags(f *pflag.FlagSet, p *standalone.Plan) {
	f.StringArrayVarP(&p.Mounts, "mount", "m", nil, "/PATH=SOURCE: show a source at a path below the mount point")
	f.StringArrayVarP(&p.Options, "option", "o", nil, "KEY=VALUE: option of the sources, or /PATH:KEY=VALUE of one of them")
	engineFlag(f, p)
	secretFlag(f, p)
}

func engineFlag(f *pflag.FlagSet, p *standalone.Plan) {
	f.StringArrayVar(&p.Engine, "set", nil, "KEY=VALUE: option of the engine, such as metadata.ttl=30s")
}

func secretFlag(f *pflag.FlagSet, p *standalone.Plan) {
	f.StringArrayVar(&p.Secrets, "secret", nil, "KEY=FILE: option of the sources whose value is in a file, or /PATH:KEY=FILE")
}

func cacheFlags(f *pflag.FlagSet, p *standalone.Plan) {
	f.StringArrayVarP(&p.Caches, "cache", "c", nil, "DIR:SIZE or DIR:SIZE,MEDIUM: where to keep how much, such as /var/cache/millrace:100Gi or /dev/shm/millrace:8Gi,MEM")
}
