"""Decoded blocks that are remembered mean what the library would say they mean, whatever came before."""

from hpack import Decoder, Encoder
from hpack import HeaderTuple as Indexed
from hpack import NeverIndexedHeaderTuple as Never
from hypothesis import given, settings
from hypothesis import strategies as st

from openshell.egress.http2.compression import _REMEMBERED, FieldDecoder

_FIELD = st.builds(
    lambda kind, name, value: kind(name, value),
    st.sampled_from([Indexed, Never]),
    st.sampled_from([b":method", b"a", b"b"]),
    st.sampled_from([b"GET", b"1", b"2", b"v" * 1500]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.lists(_FIELD, max_size=4), st.sampled_from([0, 0, 0, 100, 4096]))))
def test_what_is_remembered_is_what_the_library_reads(lists):
    encoder, library, ours = Encoder(), Decoder(), FieldDecoder()
    for fields, size in lists:
        if size:
            encoder.header_table_size = size
        block = encoder.encode(fields)
        expected = [tuple(one) for one in library.decode(block, raw=True)]
        assert expected == [tuple(one) for one in fields]
        assert [tuple(one) for one in ours.decode(block)] == expected


def test_blocks_are_remembered_while_the_table_stays_as_it_is():
    encoder, ours = Encoder(), FieldDecoder()
    encoder.encode([(b"a", b"1")])
    first = Encoder().encode([Indexed(b"a", b"1")])
    ours.decode(first)
    again = encoder.encode([Indexed(b"a", b"1")])
    assert ours.decode(again) is ours.decode(again)
    other = encoder.encode([Indexed(b"a", b"2")])
    ours.decode(other)
    # The same byte names another entry now.
    assert [tuple(one) for one in ours.decode(again)] == [(b"a", b"2")]


def test_few_blocks_are_remembered_and_no_long_ones():
    ours = FieldDecoder()
    for number in range(100):
        ours.decode(Encoder().encode([Never(b"a", b"%d" % number)]))
    ours.decode(Encoder().encode([Never(b"a", b"\xff" * 1000)]))
    assert len(ours._known) == _REMEMBERED
