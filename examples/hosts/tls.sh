#!/bin/sh
# TLS for a shared store: a CA of its own, a certificate for the server, and one for the hosts.
#
#     ./tls.sh db.example.com FOLDER
#
# Writes into FOLDER:
#     ca.crt                     for everybody: whom to believe (sslrootcert)
#     ca.key                     keep it off all machines: whoever has it can pretend to be the server
#     server.crt, server.key     for the database server (ssl_cert_file, ssl_key_file)
#     bulkcert.crt, bulkcert.key for the hosts (sslcert, sslkey); its name is that of the role
# Certificates are valid for a year. Who has a CA already uses that instead.
set -eu
umask 077

host=$1
mkdir -p "$2"
cd "$2"
[ ! -e ca.key ] || { echo "There is a CA in $2 already." >&2; exit 1; }

new_key() {
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null
}

# make NAME SUBJECT EXTENSIONS: a key, and a certificate of the CA for it
make() {
    new_key "$1.key"
    printf '%s\n' "$3" > "$1.ext"
    openssl req -new -key "$1.key" -subj "/CN=$2" |
        openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -sha256 \
            -extfile "$1.ext" -out "$1.crt" 2>/dev/null
    rm "$1.ext"
}

new_key ca.key
openssl req -x509 -new -key ca.key -subj "/CN=bulkcert store CA" -days 3650 -sha256 -out ca.crt
make server "$host" "subjectAltName = DNS:$host
extendedKeyUsage = serverAuth"
make bulkcert bulkcert "extendedKeyUsage = clientAuth"
rm -f ca.srl
chmod 644 ca.crt server.crt bulkcert.crt

openssl verify -CAfile ca.crt server.crt bulkcert.crt
