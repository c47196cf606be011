// Command scheduler is kube-scheduler with two more plugins: CacheLocality
// sends pods to their bytes, Coscheduling starts the pods of a gang together.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // metrics of the API client
	_ "k8s.io/component-base/metrics/prometheus/version"  // metric build_info
	"k8s.io/kubernetes/cmd/kube-scheduler/app"
	_ "sigs.k8s.io/scheduler-plugins/apis/config/scheme" // args of Coscheduling
	"sigs.k8s.io/scheduler-plugins/pkg/coscheduling"

	"github.com/millrace/millrace/scheduler/cachelocality"
)

func main() {
	os.Exit(cli.Run(app.NewSchedulerCommand(
		app.WithPlugin(cachelocality.Name, cachelocality.New),
		app.WithPlugin(coscheduling.Name, coscheduling.New),
	)))
}
