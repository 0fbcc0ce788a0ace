"""Personal data is masked where it is personal: what only looks like it stays, beside what must go."""

import pytest

from data_tools.clean.personal import mask

KINDS = {"email": True, "ip": True, "ipv6": True, "phone": True}

STAYS = [
    "version 8.8.4.4",
    "Version: 8.8.4.4 of the driver",
    'AssemblyVersion("1.0.0.0")',
    '[assembly: AssemblyFileVersion("4.7.2.9")]',
    "FileVersion=4.7.2.9",
    "released in v2.14.3.1 and v2.14.3.2",
    "upgrade from 8.1.3.5 to 8.1.4.2",
    "versions 4.2.1.9, 4.2.2.1 and 4.2.2.3 are affected",
    "requests==2.31.4.1",
    "foo >= 12.3.4.5",
    "Safari/53.7.3.6 in the user agent",
    "openssl-1.1.3.7.tar",
    "linux-image_4.15.2.1",
    "5.4.3.2-beta",
    "see Section 4.3.2.1 and § 7.6.5.4",
    "Table 12.3.4.5",
    "OID 1.3.6.1",
    "the network 44.0.0.0 and 9.20.0.0",
    "on 192.168.1.17 and 127.0.0.1",
    "git@github.com",
    "git clone git@github.com:owner/name.git",
    "ssh://git@gitlab.example.org/owner/name.git",
    "hg@bitbucket.org",
    "icon@2x.png beside logo@1.5x.webp",
]
GOES = [
    ("ping 8.8.4.4 now", "<IP_ADDRESS>"),
    ("the server 8.8.4.4 answered", "<IP_ADDRESS>"),
    ("client: 91.198.174.192 - GET /", "<IP_ADDRESS>"),
    ("ip=91.198.174.192", "<IP_ADDRESS>"),
    ("http://91.198.174.192/page", "<IP_ADDRESS>"),
    ("version 2 runs at 91.198.174.192", "<IP_ADDRESS>"),
    ("91.198.174.192, 91.198.174.193 posted", "<IP_ADDRESS>"),
    ("update the host address 91.198.174.192", "<IP_ADDRESS>"),
    ("write to jane.doe@github.com", "<EMAIL>"),
    ("gitta@firma.de", "<EMAIL>"),
    ("legit@firma.de", "<EMAIL>"),
]


@pytest.mark.parametrize("text", STAYS)
def test_what_only_looks_personal_stays(text):
    assert mask(text, KINDS, "placeholder") == (text, {})


@pytest.mark.parametrize(("text", "placeholder"), GOES)
def test_what_is_personal_goes(text, placeholder):
    masked, counts = mask(text, KINDS, "placeholder")
    assert placeholder in masked
    assert not any(part in masked for part in ("@", "91.198", "8.8.4.4"))
    assert sum(counts.values()) == masked.count(placeholder)
