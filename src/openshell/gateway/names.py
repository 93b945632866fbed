"""Words for generated sandbox names. Short enough that two of them and a hyphen keep the limit."""

from __future__ import annotations

__all__ = ["WORDS_FIRST", "WORDS_SECOND"]

_FIRST = (
    "able amber ample arctic basic blue bold brave brief bright brisk broad bronze calm careful "
    "cheery civil classic clean clear clever cosmic cozy crisp curious daring deep deft dense "
    "dry eager early easy even fair fast fine firm fleet fond frank free fresh frosty gentle "
    "giant glad golden grand green handy happy hardy hazel honest humble ideal jolly keen kind "
    "large late lively local loyal lucid lucky lunar mellow merry mild misty modest narrow neat "
    "new nimble noble north novel olive open orange patient plain polar polite prime proud pure "
    "quick quiet rapid rare ready regal royal rural sage scarlet serene sharp shiny silent "
    "silver simple sleek slow smart smooth snowy sober solar solid south spare stable steady "
    "still stout sturdy sunny super sweet swift tall tender tidy tiny tranquil trim true upper "
    "valid vast velvet violet vivid warm west wide wild wise witty young zesty"
)
_SECOND = (
    "acorn anchor apple arch aspen atlas badger bamboo basin bay beacon bear beaver birch bison "
    "bloom boat bridge brook canyon cedar cliff cloud clover comet condor coral cove crane "
    "creek crow cypress dawn deer delta desert dove dune eagle elk elm ember falcon fern field "
    "finch fjord flame forest fox frost garden geyser glacier glade grove gull harbor hare "
    "hawk heron hill horizon ibis iris island ivy jay juniper kelp kestrel kite koala lagoon "
    "lake lark laurel lemur lily linden lotus lynx maple marsh meadow mesa mint moon moose "
    "moss moth mountain oak oasis ocean orchid osprey otter owl palm panda pebble pelican pine "
    "planet plover pond poppy prairie puma quail quartz rabbit raven reef ridge river robin "
    "rose rowan sage salmon seal shore sky sparrow spring spruce star stone stork stream "
    "summit swan tern thistle tide tiger trail trout tulip tundra valley vine walrus water "
    "wave willow wind wolf wren yak yew zebra"
)

WORDS_FIRST = tuple(_FIRST.split())
WORDS_SECOND = tuple(_SECOND.split())
