"""Cloud Storage of the local cloud with Google's own client: generations and preconditions."""

import socket
import threading

import pytest
from google.api_core import exceptions as errors
from google.cloud.storage.retry import DEFAULT_RETRY

from lib.localcloud.storage import StorageServer


@pytest.fixture(scope="module")
def bucket(gcs):
    return gcs.create_bucket("preconditions")


def put(bucket, name, content="a", **conditions):
    blob = bucket.blob(name)
    blob.upload_from_string(content, **conditions)
    return blob


def test_create_only_if_absent(bucket):
    put(bucket, "absent", if_generation_match=0)
    with pytest.raises(errors.PreconditionFailed, match="if_?[gG]eneration_?[mM]atch"):
        put(bucket, "absent", "b", if_generation_match=0)
    assert bucket.blob("absent").download_as_bytes() == b"a"


def test_replace_only_the_generation_that_was_read(bucket):
    first = put(bucket, "replaced")
    second = put(bucket, "replaced", "b", if_generation_match=first.generation)
    assert second.generation != first.generation
    with pytest.raises(errors.PreconditionFailed):
        put(bucket, "replaced", "c", if_generation_match=first.generation)
    put(bucket, "replaced", "d", if_generation_not_match=first.generation)
    assert bucket.blob("replaced").download_as_bytes() == b"d"


def test_resumable_upload(bucket):
    """A blob with a chunk size is uploaded in a session; the condition is checked for each."""
    put(bucket, "resumable", if_generation_match=0)
    blob = bucket.blob("resumable", chunk_size=2**18)
    with pytest.raises(errors.PreconditionFailed):
        blob.upload_from_string("b" * 2**19, if_generation_match=0)
    assert bucket.blob("resumable").download_as_bytes() == b"a"
    first = bucket.get_blob("resumable")
    blob.upload_from_string("b" * 2**19, if_generation_match=first.generation)
    assert bucket.get_blob("resumable").size == 2**19


def test_read_change_and_delete(bucket):
    blob = put(bucket, "changed")
    wrong = blob.generation - 1
    for call in (lambda: bucket.get_blob("changed", if_generation_match=wrong),
                 lambda: bucket.blob("changed").download_as_bytes(if_generation_match=wrong),
                 lambda: blob.patch(if_metageneration_match=blob.metageneration + 1),
                 lambda: bucket.blob("changed").delete(if_generation_match=wrong)):
        with pytest.raises(errors.PreconditionFailed):
            call()
    blob.metadata = {"owner": "me"}
    blob.patch(if_generation_match=blob.generation, if_metageneration_match=blob.metageneration)
    assert bucket.get_blob("changed").metadata == {"owner": "me"}
    bucket.blob("changed").delete(if_generation_match=blob.generation)
    assert bucket.get_blob("changed") is None


def test_a_read_that_is_up_to_date(bucket):
    blob = put(bucket, "unchanged")
    with pytest.raises(errors.NotModified):
        bucket.blob("unchanged").reload(if_generation_not_match=blob.generation)


def test_copy(bucket):
    source = put(bucket, "source", "s")
    put(bucket, "target", "t")
    for conditions in ({"if_generation_match": 0},
                       {"if_source_generation_match": source.generation + 1}):
        with pytest.raises(errors.PreconditionFailed):
            bucket.copy_blob(source, bucket, "target", **conditions)
        with pytest.raises(errors.PreconditionFailed):
            bucket.blob("target").rewrite(source, **conditions)
    with pytest.raises(errors.PreconditionFailed):
        bucket.blob("target").compose([source], if_generation_match=0)
    assert bucket.blob("target").download_as_bytes() == b"t"
    bucket.copy_blob(source, bucket, "target", if_source_generation_match=source.generation)
    assert bucket.blob("target").download_as_bytes() == b"s"


def test_an_old_generation_is_gone(bucket):
    """Without object versioning only the live generation is kept."""
    old = put(bucket, "versions")
    new = put(bucket, "versions", "b")
    assert bucket.blob("versions", generation=new.generation).download_as_bytes() == b"b"
    with pytest.raises(errors.NotFound):
        bucket.blob("versions", generation=old.generation).download_as_bytes()
    with pytest.raises(errors.NotFound):
        bucket.blob("versions", generation=old.generation).delete()
    assert bucket.blob("versions").exists()


def test_one_writer_of_many_wins(bucket):
    """`if_generation_match=0` is how programs take a lock."""
    won, lost = [], []

    def take(n):
        try:
            put(bucket, "lock", str(n), if_generation_match=0, retry=DEFAULT_RETRY)
            won.append(n)
        except errors.PreconditionFailed:
            lost.append(n)

    threads = [threading.Thread(target=take, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert bucket.blob("lock").download_as_bytes() == str(won[0]).encode()


def test_a_client_that_stops_in_the_middle_does_not_hold_up_the_end(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = StorageServer(tmp_path, listener)
        server.start()
        with socket.create_connection(listener.getsockname()) as client:
            client.sendall(b"POST /storage/v1/b HTTP/1.1\r\nHost: localhost\r\n"
                           b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
            with socket.create_connection(listener.getsockname()) as other:
                other.sendall(b"GET /storage/v1/b?project=p HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert other.recv(12) == b"HTTP/1.1 200"  # so the first one has been read
            stopping = threading.Thread(target=server.stop, daemon=True)
            stopping.start()
            stopping.join(15)
            assert not stopping.is_alive()
