"""The words with which captions name COCO's 80 categories."""

import re


def _split(text: str) -> tuple[str, ...]:
    """Return the names that commas separate."""
    return tuple(re.findall(r"[^\s,][^,\n]*", text))


# Other names of each category. An ambiguous word (glass, chicken as food, baseball as a game, trunk, baby, which may be
# an animal's) is left out, or listed only in phrases that make it clear:
# better to miss a name than to find a wrong one.
_TABLE = """
person: man, woman, boy, girl, child, kid, toddler, infant, lady, guy, gentleman, teenager, youth, youngster, human,
    player, rider, skier, snowboarder, skateboarder, surfer, batter, catcher, pitcher, umpire, cyclist, bicyclist,
    motorcyclist, biker, skater, swimmer, runner, worker, officer, policeman, fireman, soldier, chef, waiter, waitress,
    driver, passenger, pedestrian, spectator, student, athlete, cowboy, farmer, tourist, bride, groom, boarder, golfer,
    jockey, vendor, businessman, someone, somebody, folk, ball player, cow boy, cow girl
bicycle: bike, tricycle
car: automobile, suv, sedan, taxi, cab, minivan, jeep, limousine, limo, hatchback, van, police car, station wagon,
    taxi cab
motorcycle: motorbike, motor bike, motor cycle, moped, scooter, motor scooter, dirt bike
airplane: plane, aeroplane, aircraft, jetliner, airliner, jumbo jet, biplane, seaplane, passenger plane,
    passenger airplane, passenger jet, jet plane, fighter jet
bus: double decker, minibus, school bus, tour bus, passenger bus, trolley bus
train: locomotive, tram, trolley, subway, caboose, train car, passenger train, subway train, trolley car,
    street car, streetcar, subway car, rail car, box car
truck: lorry, pickup, pick-up, firetruck, fire truck, dump truck, tow truck, 18 wheeler, pickup truck, pick-up truck,
    pick up truck
boat: ship, sailboat, sail boat, canoe, kayak, raft, ferry, yacht, gondola, rowboat, row boat, motorboat, speedboat,
    tugboat, dinghy, catamaran, vessel, barge
traffic light: stoplight, stop light, traffic signal, red light, green light
fire hydrant: hydrant, fire plug
stop sign:
parking meter: meter
bench: park bench, pew
bird: duck, goose, geese, seagull, gull, pigeon, owl, parrot, swan, eagle, hawk, crow, sparrow, rooster, hen, peacock,
    ostrich, pelican, flamingo, penguin, finch, dove, parakeet, cardinal, robin, heron, hummingbird, stork, duckling,
    woodpecker
cat: kitten, kitty, feline, tabby, kitty cat
dog: puppy, pup, doggy, doggie, canine, bulldog, terrier, poodle, labrador, beagle, chihuahua, dachshund, collie,
    husky, dalmatian, pug, corgi, retriever, greyhound, hound, puppy dog, bull dog, pit bull
horse: pony, foal, mare, stallion, colt, racehorse, mule, donkey
sheep: lamb, ewe, goat
cow: cattle, calf, bull, ox, oxen, heifer, bison, longhorn
elephant:
bear: polar bear, grizzly, grizzly bear, brown bear, black bear, cub, panda, bear cub, panda bear
zebra:
giraffe:
backpack: knapsack, rucksack, back pack, book bag
umbrella: parasol
handbag: purse, hand bag, tote, tote bag
tie: necktie, neck tie, bow tie, bowtie
suitcase: luggage, suit case, baggage, briefcase, duffel bag
frisbee: frisby, flying disc
skis: pair of skis
snowboard: snow board
sports ball: ball, soccer ball, soccerball, tennis ball, beach ball, rugby ball, golf ball
kite: parasail
baseball bat: bat
baseball glove: baseball mitt, catcher 's mitt, mitt, catchers mitt
skateboard: skate board, longboard
surfboard: surf board, boogie board, bodyboard, paddle board, paddleboard, wakeboard
tennis racket: racket, racquet, tennis racquet
bottle: beer bottle, wine bottle, water bottle
wine glass: wineglass, glass of wine, goblet, champagne glass
cup: mug, coffee cup, tea cup, teacup, cup of coffee
fork:
knife: butter knife, butcher knife
spoon: ladle, teaspoon
bowl:
banana:
apple:
sandwich: burger, hamburger, cheeseburger, panini, sandwhich, blt, bagel
orange: tangerine, clementine, mandarin
broccoli:
carrot:
hot dog: hotdog, sausage, frankfurter, bratwurst, corn dog, chili dog
pizza: pizza pie, slice of pizza, piece of pizza
donut: doughnut, dough nut, cruller
cake: cupcake, cheesecake, birthday cake, wedding cake, shortcake, layer cake, cup cake
chair: armchair, stool, recliner, rocking chair, lawn chair, rocker, high chair, lounge chair
couch: sofa, loveseat, love seat, settee, futon, sectional, sofa bed
potted plant: houseplant, house plant, potted flower, bonsai
bed: bunk, bunk bed, crib, mattress, cot
dining table: table, dinner table, kitchen table, picnic table, coffee table, desk
toilet: urinal, commode, lavatory, toilet seat, toilet bowl
tv: television, tv set, television set, televison, tv screen, flat screen, flat screen tv,
    flat screen television
laptop: laptop computer, notebook computer, netbook, macbook, apple laptop
mouse: computer mouse
remote: remote control, remote controller, wii remote, wii controller, wiimote, tv remote, tv remote control,
    television remote
keyboard: computer keyboard
cell phone: cellphone, phone, mobile phone, smartphone, smart phone, iphone, telephone
microwave: microwave oven
oven: stove, stovetop, stove top, stove top oven
toaster: toaster oven
sink: washbasin, bathroom sink, kitchen sink, basin
refrigerator: fridge, refridgerator, freezer
book: novel, textbook
clock: clock tower, wall clock, alarm clock
vase:
scissors: pair of scissors, scissor, shears
teddy bear: teddy, stuffed bear, stuffed animal, teddybear
hair drier: hair dryer, hairdryer, blow dryer, hairdrier
toothbrush: tooth brush
"""
NAMES = {category: _split(names) for category, names in re.findall(r"^(.+):((?:.|\n )*)$", _TABLE, re.MULTILINE)}

# Phrases that contain a name but do not name that category, and colours; the longest match keeps the name in them out.
OTHERS = _split("""
orange, apple cider, apple computer, apple juice, apple logo, apple pie, apple sauce, apple tree, ball cap,
ball field, ball game, ball gown, ball park, banana bread, banana split, banana tree, bear hug, bed of, bed room,
bed spread, bicycle lane, bicycle path, bicycle rack, bike lane, bike path, bike rack, bike trail, bird bath,
bird cage, bird feeder, bird house, bird seed, boat house, book case, book shelf, book store, bowl cut, bus depot,
bus driver, bus lane, bus shelter, bus station, bus stop, bus stop sign, bus terminal, cable car, cake batter,
cake pan, cake stand, car door, car lot, car mirror, car park, car seat, car wash, car window, carrot cake, cd player,
chair lift, clock face, couple of, cow print, cup board, cup holder, desk top, dog house, dog park, dvd player,
farmer 's market, farmers market, flower bed, foot stool, fork lift, gingerbread man, glass pitcher, horse racing,
horse shoe, jet ski, keyboard player, kite string, knife block, lion cub, man hole, man made, mickey mouse,
milk pitcher, mouse pad, mp3 player, music keyboard, music player, orange juice, orange tree, oven mitt, pan cake,
passenger seat, passenger side, passenger window, pay phone, phone booth, phone line, phone pole, piano keyboard,
ping pong table, pitcher of, pizza box, pizza cutter, pizza oven, pizza pan, pizza parlor, pizza place,
pizza restaurant, pizza shop, pool table, prairie dog, record player, remote area, remote controlled, remote location,
rocking horse, rubber duck, saw horse, scissor lift, screw driver, sheep dog, sink hole, snow man, step stool,
subway platform, subway station, super bowl, table cloth, table runner, table tennis, table top, telephone booth,
telephone line, telephone pole, telephone wire, tie dye, tie dyed, tiger cub, toilet paper, toilet tissue, toy car,
toy dog, toy train, toy truck, train crossing, train depot, train platform, train station, train stop, train terminal,
train track, train yard, truck bed, tv show, tv stand, tv tray, video player, water pitcher, wine cellar,
zebra crossing, zebra print, zebra striped
""")

_PLURALS = """
man men, woman women, child children, person people, policeman policemen, fireman firemen, gentleman gentlemen,
businessman businessmen, knife knives, calf calves, sheep sheep, mouse mice, goose geese, ox oxen, skis skis,
scissors scissors, broccoli broccoli
"""
IRREGULAR = dict(pair.split() for pair in _split(_PLURALS))


def plural(name: str) -> str:
    """Return the plural of a noun, or of a phrase by its last word (of "glass of wine" by the first).

    >>> [plural(name) for name in ("dog", "bus", "baby", "knife", "glass of wine", "hot dog")]
    ['dogs', 'buses', 'babies', 'knives', 'glasses of wine', 'hot dogs']
    """
    head, of, rest = name.partition(" of ")
    before, _, noun = head.rpartition(" ")
    if noun in IRREGULAR:
        noun = IRREGULAR[noun]
    elif noun.endswith(("s", "x", "ch", "sh")):
        noun += "es"
    elif noun.endswith("y") and noun[-2:-1] not in "aeiou":
        noun = noun[:-1] + "ies"
    else:
        noun += "s"
    return f"{before} {noun}".strip() + of + rest
