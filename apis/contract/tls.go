package contract

// TLS between the processes of one cache is mutual. Each has a certificate, a
// key and the CA that signed those of the others, as files that are read again
// when they change. The options go into ComponentConfig.Options; environment and
// flags win over them.
const (
	OptionTLSCA   = "tls.ca"
	OptionTLSCert = "tls.cert"
	OptionTLSKey  = "tls.key"
	// OptionTLSName is a DNS name that every certificate of the cache has:
	// whoever has it may connect. DefaultTLSName if it is not set.
	OptionTLSName = "tls.name"

	EnvTLSCA   = "MILLRACE_TLS_CA"
	EnvTLSCert = "MILLRACE_TLS_CERT"
	EnvTLSKey  = "MILLRACE_TLS_KEY"
	EnvTLSName = "MILLRACE_TLS_NAME"

	DefaultTLSName = "millrace"
)
