import json
import os
import pathlib

path = pathlib.Path(os.environ["TRUST_PATH"])
path.write_text(os.environ["TRUST_PEM"])
pki = json.loads(os.environ.get("PKI", "{}"))
for field, name in {"certificate": "tls.crt", "key": "tls.key", "authority": "ca.crt"}.items():
    if pki:
        file = path.with_name(name)
        file.touch(0o400)
        os.chown(file, 10001, 10001)
        file.write_text(pki[field])
