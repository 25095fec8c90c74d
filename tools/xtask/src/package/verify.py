"""Has signify verify files: a reader of Authenticode signatures in another language.

Reads a list of questions from standard input, each {"file", "catalog" or null}, with the certificate to trust as the only
argument, and writes a list of answers: null for "verified", or why not. A question with a catalogue is about the catalogue's
signature and the file's digest in it; one without is about the signature in the file, or, of a catalogue, about its own.
"""

import json
import re
import sys

# oscrypto 1.3.0, on which signify rests, takes no version of OpenSSL with two digits at its end, as 3.0.19 is.
NARROW, WIDE = r"\b(\d\.\d\.\d[a-z]*)\b", r"\b(\d+\.\d+\.\d+[a-z]*)\b"
search = re.search
re.search = lambda pattern, *rest: search(WIDE if pattern == NARROW else pattern, *rest)
import oscrypto.asymmetric  # noqa: E402

re.search = search

from signify.authenticode import AuthenticodeFile, CertificateTrustList  # noqa: E402
from signify.x509 import Certificate, CertificateStore  # noqa: E402


def verify(file, catalog, trusted):
    with open(file, "rb") as stream:
        if catalog is None and file.endswith(".cat"):
            CertificateTrustList.from_envelope(stream.read()).verify(trusted_certificate_store=trusted)
            return
        subject = AuthenticodeFile.from_stream(stream, allow_flat=True)
        kind = "embedded"
        if catalog is not None:
            kind = "catalog"
            with open(catalog, "rb") as listed:
                subject.add_catalog(listed)
        subject.verify(signature_types=kind, multi_verify_mode="all", trusted_certificate_store=trusted)


def answer(question, trusted):
    try:
        verify(question["file"], question["catalog"], trusted)
    except Exception as error:  # Whatever it is, the file is refused.
        return f"{type(error).__name__}: {error}"
    return None


with open(sys.argv[1], "rb") as pem:
    store = CertificateStore([Certificate.from_pem(pem.read())], trusted=True)
print(json.dumps([answer(question, store) for question in json.load(sys.stdin)]))
