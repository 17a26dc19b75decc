from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from orlop_log_splunk import Splunk
from orlop_sdk import DriverError, LogBlock, LogInfo
from orlop_sdk.testing import RecordingService

INFO = LogInfo("0123456789ab" * 5, "/web", "", "", "", "", "")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def context(tmp_path: Path) -> ssl.SSLContext:
    cert, key = str(tmp_path / "cert"), str(tmp_path / "key")
    subject = ["-subj", "/CN=splunk.example", "-addext", "subjectAltName=DNS:splunk.example", "-days", "2"]
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", *subject]
    subprocess.run([*argv, "-keyout", key, "-out", cert], check=True, capture_output=True)
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.load_cert_chain(cert, key)
    return made


def test_certificate_must_contain_the_name_in_the_option_splunk_caname(context: ssl.SSLContext, tmp_path: Path) -> None:
    """The certificate of the service must contain the name in the option `splunk-caname`, not the name of the host."""
    with RecordingService("tcp", answer=lambda data: (len(data), OK), secured=context) as service:
        url = service.address.replace("tcp://127.0.0.1", "https://localhost")
        options = {"splunk-url": url, "splunk-token": "secret", "splunk-capath": str(tmp_path / "cert")}
        with pytest.raises(DriverError, match="CERTIFICATE_VERIFY_FAILED"):
            Splunk().open_writer(INFO, {**options, "splunk-verify-connection": "true"})
        writer = Splunk().open_writer(INFO, {**options, "splunk-caname": "splunk.example"})
        writer.write([LogBlock("stdout", b"text\n", 1)])
        writer.close()
        service.until(lambda _: any(b'"line":"text"' in record for record in service.records))
        assert any(b'"line":"text"' in record for record in service.records)
