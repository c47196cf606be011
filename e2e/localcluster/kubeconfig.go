package localcluster

import (
	"fmt"
	"os"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// kubeconfig writes <file>.kubeconfig with all certificates inside, so that it
// can be moved.
func (a *authority) kubeconfig(file, server string) (string, error) {
	var parts [3][]byte
	for i, name := range []string{"ca.crt", file + ".crt", file + ".key"} {
		data, err := os.ReadFile(a.path(name))
		if err != nil {
			return "", err
		}
		parts[i] = data
	}
	cfg := api.NewConfig()
	cfg.Clusters["local"] = &api.Cluster{Server: server, CertificateAuthorityData: parts[0]}
	cfg.AuthInfos[file] = &api.AuthInfo{ClientCertificateData: parts[1], ClientKeyData: parts[2]}
	cfg.Contexts["local"] = &api.Context{Cluster: "local", AuthInfo: file}
	cfg.CurrentContext = "local"
	path := a.path(file + ".kubeconfig")
	if err := clientcmd.WriteToFile(*cfg, path); err != nil {
		return "", fmt.Errorf("write kubeconfig of %s: %w", file, err)
	}
	return path, nil
}
