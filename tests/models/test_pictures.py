"""Pictures come in many forms; what they claim is looked at before anything is decoded."""

import base64
import io
import struct
import zlib

import pytest
from PIL import Image

from swift.core.errors import RequestError
from swift.models import pictures
from tests.seeing import picture


def url(data: bytes, kind: str = 'image/png') -> str:
    return f'data:{kind};base64,{base64.b64encode(data).decode()}'


def claiming(width: int, height: int) -> bytes:
    """A png whose header says how large it is, and which has no pixels."""
    chunk = lambda name, data: struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', b'') + chunk(b'IEND', b'')


def test_every_way_to_give_a_picture_gives_its_bytes(tmp_path):
    data = picture(1)
    path = tmp_path / 'picture.png'
    path.write_bytes(data)
    ways = [data, str(path), path, f'file://{path}', url(data), base64.b64encode(data).decode()]
    ways += [{'bytes': data, 'path': None}, {'path': str(path)}]
    assert all(pictures.read(way) == data for way in ways)


def test_a_picture_in_memory_keeps_its_pixels():
    image = Image.open(io.BytesIO(picture(2)))
    assert pictures.decode(pictures.read(image)).tobytes() == image.tobytes()


@pytest.mark.parametrize('form', pictures.FORMATS)
def test_each_format_is_decoded_to_rgb(form):
    image = pictures.decode(picture(3, 20, 10, form))
    assert (image.mode, image.size) == ('RGB', (20, 10))


@pytest.mark.parametrize(
    'source, why',
    [
        ('https://example.org/a.png', 'not fetched; download'),
        ('no/such/file.png', 'no such file'),
        ('data:text/html;base64,PGI+', 'no picture that can be taken'),
        ('data:image/png;base64,%%%', 'not valid base64'),
        (7, 'not int'),
        ('', 'not str'),
    ],
)
def test_what_is_no_picture_is_refused_with_what_to_do(source, why):
    with pytest.raises(RequestError, match=why):
        pictures.read(source)


@pytest.mark.parametrize('address', ['http://10.0.0.1/x.png', 'file:///etc/passwd', '/etc/passwd', 'ftp://a/b.png'])
def test_clients_cannot_make_the_server_read_an_address_or_a_file(address):
    with pytest.raises(RequestError, match='Addresses are not fetched'):
        pictures.of_url(address)


@pytest.mark.parametrize('width, height', [(7072, 7072), (60000, 60000), (2**31 - 1, 2**31 - 1)])
def test_a_small_file_of_many_pixels_is_refused_by_its_header(width, height):
    with pytest.raises(RequestError, match='at most 50,000,000'):
        pictures.size(claiming(width, height))


@pytest.mark.parametrize('data', [b'', b'GIF89a', b'<svg/>', picture(4)[:20], b'BM' + picture(4)])
def test_what_is_in_no_known_format_is_refused(data):
    with pytest.raises(RequestError, match='no png, jpeg, webp or gif'):
        pictures.size(data)


def test_a_picture_that_breaks_off_is_refused_when_it_is_decoded():
    data = picture(5, 64, 64)[:-2000]
    assert pictures.size(data) == 64 * 64
    with pytest.raises(RequestError, match='damaged'):
        pictures.decode(data)


def test_a_picture_that_lies_on_its_side_is_put_upright():
    kept = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (30, 10)).save(kept, 'JPEG', exif=exif)
    assert pictures.decode(kept.getvalue()).size == (10, 30)
