"""The grammar of the phrasebook: domains, actions, slot fillers, and templates of every intent. Data only.

A template is one line. `(a|b)` is one of a and b, `[a]` is a or nothing, `{city}` a filler of that slot, `<when>` an
entry of SYMBOLS; `,` and `?` are tokens of their own. A line that starts with <ask> or <do> is a request and may end
with a courtesy; every line may start with a greeting. Action verbs overlap on purpose (move money, move a meeting;
drop a name into a list, drop a booking): only its context decides what a verb means.
"""

DOMAINS = ("travel", "calendar", "music", "banking", "dining")
ACTIONS = ("find", "book", "change", "cancel")

GREETING = "(|||||hey ,|hi ,|hello ,|ok ,|so|um ,|quick one ,|sorry ,)"
COURTESY = "(|||||thanks|thank you|if possible|if you can|when you get a chance|asap)"

SYMBOLS = {
    "ask": "(|please|could you [please]|can you|would you|i need you to|i'd like you to|i was wondering if you could)",
    "do": "(|please|could you|can you please|i want to|i need to|i'd like to|help me|i was hoping to|can we)",
    "when": "(on {day}|on {day}|{soon})",
    "my": "(my|the|our)",
}

# Slot name -> tag and fillers; several slots may share a tag. Titles and names hold words that elsewhere decide an
# intent (Change of Heart, Table for Two), so that a slot has to be read as one thing.
SLOTS = {
    "city": (
        "city",
        "Paris|Oslo|Lisbon|New York|Berlin|Rome|San Francisco|Cape Town|Kyoto|Toronto|Madrid|Vienna|Dublin|Prague|"
        "Chicago|Boston|Athens|Seoul|Nairobi|Mexico City|Hamburg|Turin|Porto|Glasgow|Denver|Lima|Krakow|Bergen",
    ),
    "day": (
        "date",
        "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday|March 12|the 3rd of June|May 1st|the 21st|July 30|"
        "New Year's Eve|the 9th of August|October 5|the last Sunday in April|my birthday",
    ),
    "soon": (
        "date",
        "tomorrow|today|next Friday|this weekend|next week|next Tuesday|tonight|the day after tomorrow|this Thursday",
    ),
    "time": (
        "time",
        "7 pm|noon|half past six|9 in the morning|8:30|quarter to five|3 o'clock|11 am|midnight|10:15|six thirty|4 pm",
    ),
    "person": (
        "person",
        "Anna|Tom|Priya|Mrs Okafor|Diego|Lena|Dr Patel|Yusuf|Mia Jensen|Carlos|Ingrid|Mr Chen|Fatima|Oliver|Sofia|"
        "Grandma|Ben Archer|Chloe|Hiro|Noor|Elena Rossi|Marcus|Zoe",
    ),
    "song": (
        "song",
        "Change of Heart|Table for Two|Paris in March|Find Me Again|Friday Night Train|Cancel My Goodbye|Seven Rivers|"
        "Paid in Stars|Move a Little Closer|Meeting the Moon|Glass Harbour|Call It Off|Late Checkout|Kitchen Light|"
        "Ticket to Nowhere|Slow Parade|Reserved for Rain|Golden Account",
    ),
    "artist": (
        "artist",
        "Paper Lanterns|Nora Vale|Static Orchard|Velvet Ferry|Cancelled Plans|Juniper Kane|Small Change|"
        "Table Nine|Kofi Bright|Late Bookings|Lisbon Sleepers|Marlow and Fitch|Echo Dinner|Blue Transfer|Ada Quill",
    ),
    "restaurant": (
        "restaurant",
        "Luigi's|Little Lisbon|Cafe Oslo|the Green Table|Noon Deli|Harbour Grill|Spice Route|Friday's Kitchen|"
        "the Old Bank|Casa Elena|Two Trains|Olive and Thyme|Ramen Station|the Music Room|Bella Roma|Taco Diego",
    ),
    "amount": (
        "amount",
        "50 dollars|120 euros|$75|1000 pounds|20 bucks|$340|two hundred euros|15 pounds|$1400|60 dollars|"
        "900 kroner|eighty dollars|$18|five hundred pounds|45 euros|250 dollars",
    ),
    "party": ("party", "two|three|four|five|six|eight|ten|a dozen"),
}

# A clause about another domain, put before some utterances; it tells nothing about the intent.
ASIDES = {
    "travel": "(my (flight|train) got cancelled so|now that our (hotel|flight|trip) is booked ,|"
    "we land in {city} {soon} , so|they changed my (train|flight) , so now)",
    "calendar": "(my (meeting|appointment) (got moved|was cancelled) so|after my call with {person} ,|"
    "i found a gap in my (calendar|schedule) so|since the meeting is booked for {time} ,)",
    "music": "(while this song is playing ,|the concert got cancelled , so|after the {artist} show ,|"
    "we booked tickets to see {artist} , so)",
    "banking": "(the rent is paid , so|they cancelled my (card|transfer) so|my bank changed everything , so|"
    "i just found the {amount} i was missing , so)",
    "dining": "({restaurant} was full , so|they changed the menu at {restaurant} so|after dinner with {person} ,|"
    "our table is booked , so)",
}

TEMPLATES = {
    "travel_find": """
        <do> (find|look for|search for|look up) (cheap flights|trains|a flight|a bus) from {city} to {city} [<when>]
        <ask> (show|get) me (hotels|rooms|places to stay) in {city} [<when>]
        (what|which) (flights|trains|buses) (leave|go) from {city} <when> ?
        how (much is a flight|long is the train|long is the ferry) to {city} ?
        <do> (check|see) (if|whether) there are (seats|tickets) left on the {time} (train|flight) to {city}
        <ask> (pull up|bring up|call up) the (departures|timetable|connections) for {city} [<when>]
        is there a (direct|cheap|late) (flight|bus|train) to {city} <when> ?
        where can (i|we) stay in {city} <when> [that is (cheap|near the station)] ?
        (when|what time) does <my> (train|flight|bus) (to|from) {city} (leave|get in|arrive) ?
        {person} and i want to see {city} <when> , what are our options [?]
        any idea what it costs to get from {city} to {city} [<when>] ?
        what's the (cheapest|fastest|best) way to (get to|reach) {city} <when> ?
        i can't remember which (gate|platform) <my> (flight|train) to {city} goes from
    """,
    "travel_book": """
        <do> (book|reserve|get) (a seat|two seats|a ticket) on the {time} (train|flight|bus) to {city} [<when>]
        <ask> (book|get|reserve|find) me a (room|hotel room|suite) in {city} (from {day} to {day}|for {soon})
        <do> (arrange|sort out|organise|set up) a trip to {city} for {party} people <when>
        <ask> put me on the (next|first|{time}) (flight|train) (to|out of) {city} [<when>]
        i'll take the {time} (flight|train) to {city} [<when>]
        <do> (hold|secure|line up) a (rental car|hotel room) in {city} <when>
        (i have|we need) to be in {city} <when> , (get me there|make it happen|buy whatever flight you see)
        <ask> (buy|order|pick up) (train|bus|ferry) tickets from {city} to {city} <when>
        <do> make a hotel reservation in {city} [under {person}] <when>
        {person} needs a (flight|bed|train) to {city} <when> , the usual airline is fine
        (can i get|i'd like|we want) (a window seat|two tickets|a sleeper) on the {time} train to {city} <when> [?]
        go ahead with the {time} (flight|ferry) from {city} to {city}
        <do> schedule an airport (pickup|transfer) in {city} at {time} <when>
    """,
    "travel_change": """
        <do> (change|move|switch|shift) <my> (flight|train|trip) to {city} (to|from {day} to) {day}
        <do> (push back|bump|put off) <my> (hotel stay|trip|flight) in {city} (to|until) {day}
        <ask> (swap|exchange) <my> {time} (train|bus) to {city} for a (later|earlier) one
        <do> add {party} (nights|people|bags) to <my> (hotel booking|trip) in {city}
        <ask> (put|get) me on a (later|earlier|different) (flight|train) to {city} than the {time} one
        i have to stay in {city} until {day} instead of {day}
        <do> (upgrade|update|adjust) <my> (seat|ticket|hotel room) [for the trip] to {city} [<when>]
        could i (fly|leave|travel) to {city} <when> instead [of {day}] ?
        <my> (flight|train) to {city} is too early , is a seat at {time} possible [?]
        the (hotel|ticket) for {city} is in the wrong name , it should (be|say) {person}
        <do> (fly|go) to {city} rather than {city} with the same ticket
        <do> make <my> (room|stay|rental car) in {city} {party} nights longer
        <my> trip to {city} starts a day later now , <when>
    """,
    "travel_cancel": """
        <do> (cancel|call off|scrap|drop) <my> (flight|train|trip|hotel room) (to|in) {city} [<when>]
        <ask> (get rid of|undo|remove|kill) <my> (hotel|train|flight) (booking|reservation) (for|in) {city}
        i (won't|can't) (be|go) (in|to) {city} <when> [any more] , so give up my (seat|room|ticket)
        <do> (get|have) the money back for <my> (flight|train|hotel) (to|in) {city}
        {person} (is sick|broke a leg) , we are not (flying|going) to {city} [<when>]
        <do> (return|hand back|refund) <my> (tickets|ticket) to {city} [<when>]
        <ask> take me off the {time} (flight|train|bus) to {city} [<when>]
        we no longer need the (room|hotel|rental car) in {city} [<when>]
        can i still (get out of|back out of|pull out of) <my> (trip|flight|hotel) (to|in) {city} ?
        <ask> tell the (hotel|airline) in {city} we (are not coming|won't show up) <when>
        forget [about] the (train|flight|ferry) to {city} <when>
        <do> (pull|void|release) <my> (booking|seat|reservation) on the {time} (train|flight) to {city}
        i booked the {time} (flight|train) to {city} by mistake
    """,
    "calendar_find": """
        (when|what time|where) is <my> (meeting|appointment|call) with {person} [<when>] ?
        what's on my (calendar|agenda|schedule) <when> [?]
        <do> (find|look up|look for|check) [the time of] <my> (meeting|appointment) with {person}
        am i (free|busy|booked) <when> [at {time}] ?
        <ask> (show|tell|get) me (what|who) i have (at {time}|after {time}) <when>
        <ask> (pull up|bring up|call up) <my> (calendar|schedule|appointments) for {day}
        who am i (meeting|seeing|talking to) <when> at {time} ?
        is there (room|a gap|a free slot) in my (day|calendar) <when> ?
        what do {person} and i have (coming up|planned) <when> ?
        i can't remember (when|if) i'm (seeing|meeting) {person} [<when>]
        <do> see (which|what) (meetings|calls) are set for {day}
        did {person} (put|book) (anything|a call) in my calendar <when> ?
        <ask> list every (meeting|reminder|call) i have with {person} [before {day}]
    """,
    "calendar_book": """
        <do> (schedule|book|set up|arrange|plan) a (meeting|call|appointment) with {person} <when> [at {time}]
        <do> (put|add|drop) (lunch|a call|dinner) with {person} (on|in|into) my calendar [for {day}] [at {time}]
        <ask> (block|hold|reserve|keep) {time} <when> for [a call with] {person}
        <ask> (find|get|line up) a time with {person} <when> and send the invite
        <do> make an appointment with {person} <when> [at {time}]
        {person} (wants|needs) to (see|talk to) me <when> at {time} , (put it in|get it on the calendar)
        <ask> remind me (to call|about seeing) {person} <when> [at {time}]
        i'm (seeing|meeting) {person} at {time} <when> , don't let me forget
        <ask> (invite|get) {person} (to|in) a meeting <when> at {time}
        <do> (get|fit|pencil) {person} in [at {time}] <when>
        let's (sit down|meet) with {person} <when> at {time}
        new (meeting|event|appointment) with {person} <when> [at {time}]
        save the date , {person} is (visiting|coming over) <when> [at {time}]
    """,
    "calendar_change": """
        <do> (move|change|shift|switch) <my> (meeting|call|appointment) with {person} to {day} [at {time}]
        <do> (push back|put off|bring forward|bump) <my> (meeting|call|appointment) with {person} (to|until) {time}
        <do> reschedule <my> {time} (meeting|call|appointment) [with {person}] for {soon}
        can {person} (come|call|meet) <when> instead [of {day}] ?
        <ask> (swap|exchange) <my> (meeting|call) with {person} and the one with {person}
        <do> make <my> (meeting|call) with {person} (an hour|half an hour) (longer|shorter)
        i'm running late , (tell {person} to expect me at {time}|{person} and i meet at {time} now)
        <do> (add|invite|get) {person} to the meeting i (have|set up) with {person}
        <ask> (set|put) the start of <my> (call|meeting) with {person} at {time} instead [of {time}]
        the (call|meeting|appointment) with {person} is <when> now , not {day}
        {time} doesn't work for {person} , (does {time}|would {time}) [?]
        <do> (update|edit|adjust) the (place|time|title) of <my> (meeting|appointment) with {person}
        <do> (see|meet) {person} at {time} rather than {time} <when>
    """,
    "calendar_cancel": """
        <do> (cancel|call off|scrap|drop) <my> (meeting|appointment|call) with {person} [<when>]
        <ask> (remove|delete|clear|erase) <my> {time} (meeting|appointment|call) [<when>]
        <ask> (take|get) (lunch|the call|dinner|the review) with {person} off my (calendar|schedule)
        i (can't|won't) (make|be at) <my> (meeting|call|appointment) with {person} <when>
        {person} (is ill|quit|has left) , so no (meeting|call) <when>
        <do> get out of <my> (meeting|call) with {person} at {time} [<when>]
        <ask> (tell|let) {person} [know] (i'm not coming|we are not meeting) <when>
        <do> (clear|wipe|free up) my (calendar|schedule|afternoon) <when>
        i don't need (the reminder|the appointment|that slot) (with|about) {person} [<when>] any more
        forget [about] (seeing|meeting|calling) {person} <when>
        <my> (meeting|call) with {person} is not happening <when>
        <do> (pull|kill|undo) the invite i sent {person} for {time} [<when>]
        <ask> (decline|turn down) the (meeting|invite) from {person} <when>
    """,
    "music_find": """
        <do> (find|look up|search for|look for) [the song] {song} by {artist}
        (when|where) (is|are) {artist} playing in {city} [<when>] ?
        <ask> (show|get|tell) me (concerts|shows|gigs) in {city} <when>
        who (sings|wrote|recorded) {song} ?
        are there (tickets|seats) left for {artist} in {city} [<when>] ?
        <do> (check|see) (if|whether) {artist} (have|has) a (concert|show) in {city} <when>
        <ask> (pull up|bring up|call up) (the lyrics|the video) (of|for) {song}
        what (album|record) is {song} on ?
        how much are (seats|tickets) for {artist} <when> ?
        i can't get that song out of my head , {artist} (sing|play) it
        what's that {artist} (song|track) that goes on about {city} [?]
        is anyone good (playing|on stage) in {city} <when> ?
        <ask> list (the songs|every track) {artist} played in {city}
    """,
    "music_book": """
        <do> (book|reserve|get|buy) [(two|three)] (tickets|seats) (for|to see) {artist} (in {city}|<when>)
        <ask> (get|put) (me|us) on the list for the {artist} (show|concert|gig) <when>
        <do> (queue|line up|schedule) {song} for {time}
        <do> (hire|book|arrange) (a band|a dj|{artist}) for (the|my) party <when>
        {person} and i (have to|must) see {artist} live <when> , make it happen
        <do> (hold|secure|grab) {party} seats for the {artist} (concert|show) [in {city}]
        i'll take {party} of the tickets for {artist} <when>
        <do> set up a (guitar|piano|singing) lesson with {person} <when> [at {time}]
        <ask> (add|drop|put) {song} (on|into) my playlist
        <ask> (pick up|order|find) concert tickets for {person} and me , {artist} <when>
        sign (me|us) up for the {artist} (concert|show) in {city}
        <do> make a reservation for the {artist} (concert|show) [under {person}] <when>
        <ask> play {song} at {time} <when> , (at|for) the party
    """,
    "music_change": """
        <do> (change|move|switch|exchange) <my> {artist} (tickets|seats) (to|from {day} to) {day}
        <ask> (swap|replace) {song} (for|with) {song} [in my playlist]
        <do> (upgrade|update|adjust) <my> (seats|tickets) for [the] {artist} [concert]
        <do> (push back|put off|bump) <my> (guitar|piano|singing) lesson with {person} (to|until) {day}
        <ask> play {song} instead [of {song}]
        <ask> (put|get) us in the front row for {artist} instead of the back
        <do> see {artist} in {city} rather than {city} [<when>]
        the name on <my> {artist} (ticket|tickets) should be {person}
        <do> add {party} people to <my> booking for {artist} [<when>]
        <ask> (skip|jump) to {song} [by {artist}]
        can (i|we) go to the {artist} (show|concert) <when> instead [of {day}] ?
        {person} is coming too , so <my> {artist} tickets have to be for {party} now
        <ask> (rename|reorder|edit) my {artist} playlist
    """,
    "music_cancel": """
        <do> (cancel|call off|drop|scrap) <my> (tickets|seats|booking) for {artist} [<when>]
        <ask> (remove|delete|take|erase) {song} from my (playlist|queue|library)
        <do> (return|refund|hand back|get rid of) <my> {artist} tickets [for {day}]
        i (can't|won't) (go to|make) the {artist} (show|concert|gig) <when>
        <ask> (stop|kill|turn off) {song} [<when>]
        <ask> tell the (band|dj) we don't need them <when>
        <do> (end|quit|stop) my (guitar|piano|singing) lessons with {person}
        <do> (get|have) my money back for {artist} [in {city}]
        no more {artist} (on|in) my playlist
        {person} hates {artist} , we are staying home <when>
        <ask> (pull|void|release) <my> seats for the {artist} (show|concert) [in {city}]
        forget [about] (seeing|the tickets for) {artist} <when>
        someone else can have my (ticket|seat) for {artist} <when>
    """,
    "banking_find": """
        <do> (find|look up|look for|search for) (the payment|the transfer) (to|from) {person} [<when>]
        what's (my balance|left in my account|the balance on my card) <when> [?]
        (where|how far) is the nearest (branch|cash machine|bank) in {city} ?
        <ask> (show|get|tell) me (what i spent|my spending) (in|at) {restaurant} [<when>]
        did (the|my) (transfer|payment) (to|from) {person} (go through|arrive) <when> ?
        <do> (check|see) (if|whether) {person} paid me [the] {amount}
        <ask> (pull up|bring up|call up) my (statement|account|transactions) for {day}
        how much did i (send|pay|give) {person} [<when>] ?
        who took {amount} (from|out of) my account [<when>] ?
        i don't (recognise|remember) a (payment|charge) of {amount} [<when>]
        when does <my> bank in {city} (open|close) <when> ?
        <do> (list|see) every (charge|payment) over {amount} [since {day}]
        is there enough in my account to (pay|cover) {amount} [<when>] ?
    """,
    "banking_book": """
        <do> (schedule|set up|arrange|book) a (payment|transfer) of {amount} to {person} [<when>]
        <do> (send|pay|give|wire) {person} {amount} [<when>]
        <do> (move|put|shift|switch) {amount} (to|into) my savings [account] [<when>]
        <do> (make|book|get) an appointment (with the bank|at the branch) in {city} <when> [at {time}]
        i owe {person} {amount} , (take care of it|sort it out) <when>
        <ask> (set|put) {amount} aside (every month|<when>)
        <do> (open|start) (a new|another) (savings account|account) with {amount}
        the rent is {amount} , (it has to be there|make sure they have it) <when>
        <do> set up a standing order of {amount} (for|to) {person}
        <ask> take {amount} from my account for {person} <when>
        {person} (paid for|covered) dinner , so (return|give back) {amount}
        <ask> line up a loan of {amount} [for {day}]
        <ask> drop {amount} into (the account of {person}|our joint account) [<when>]
    """,
    "banking_change": """
        <do> (change|move|switch|shift) <my> (payment|transfer) to {person} (to|from {day} to) {day}
        <do> (change|raise|lower|update) <my> (payment|standing order) to {person} (to|from {amount} to) {amount}
        <do> (raise|lower|adjust|set) my (card|spending|credit) limit to {amount}
        <do> (push back|put off|bump) the {amount} (payment|transfer) (to|until) {day}
        <do> send {person} {amount} instead of {amount}
        <do> (move|put off) <my> appointment at the bank in {city} (to|until) {day}
        the (transfer|payment|standing order) should go to {person} , not {person}
        <ask> (swap|replace) my (pin|card|password) [for a new one] [<when>]
        <do> pay {person} <when> instead [of {day}]
        my rent went up , <my> standing order has to be {amount} [now]
        <do> take the {amount} from my savings rather than (my account|the card)
        <do> make <my> (payment|loan|transfer) to {person} a (week|month) (longer|later)
        <do> add {amount} to (the|my) transfer [that is] set up for {person}
    """,
    "banking_cancel": """
        <do> (cancel|call off|stop|drop) <my> (payment|transfer|standing order) (of {amount}|to {person}) [<when>]
        <ask> (undo|reverse|take back|pull) the {amount} i sent {person} [<when>]
        <do> (close|get rid of|shut) my (savings|joint) account [in {city}] [<when>]
        {person} shouldn't get the {amount} <when> after all
        i (can't|won't) (make|be at) my appointment at the bank <when>
        <ask> (remove|delete|erase|scrap) the standing order (for|of) {amount} [to {person}]
        no more (payments|transfers|money) to {person} [after {day}]
        <do> (get|have) the {amount} back that i (paid|sent) {person}
        i sent {person} {amount} by mistake [<when>]
        <ask> hold off on paying {person} [the] {amount} , i don't owe it
        <do> (withdraw|turn down) (my|the) loan (application|request) (of|for) {amount}
        forget [about] the {amount} for {person}
        {person} has already been paid , so don't send the {amount} <when>
    """,
    "dining_find": """
        <do> (find|look for|search for|look up) (a restaurant|places to eat|somewhere to eat) in {city} [<when>]
        (is|how late is) {restaurant} open <when> ?
        <ask> (show|get|tell) me (the menu|the specials) (at|of) {restaurant}
        where can (i|we) (eat|have dinner|get lunch) in {city} <when> ?
        <do> (check|see) (if|whether) {restaurant} (has|have) a table <when> [for {party}]
        <ask> (pull up|bring up|call up) (the reviews|the address) of {restaurant}
        what's (good|cheap|nice) (to eat|for dinner) in {city} ?
        does {restaurant} (take|have|do) (bookings|lunch|vegan food) <when> ?
        i'm (hungry|starving) in {city} , any (ideas|tips) [?]
        when is our (table|reservation|dinner) at {restaurant} <when> ?
        is {restaurant} any good [for {party} people] ?
        {person} doesn't eat meat , what do they have at {restaurant} [?]
        which (places|kitchens) in {city} (are open|serve food) <when> at {time} ?
    """,
    "dining_book": """
        <do> (book|reserve|get|grab) a table [for {party}] at {restaurant} <when> [at {time}]
        <do> make a reservation [for {party}] at {restaurant} <when> [under {person}]
        <ask> (get|put|fit) us in at {restaurant} <when> [at {time}]
        <do> (order|pick up|schedule) (dinner|food|lunch) from {restaurant} for {time} [<when>]
        {party} of us are (hungry|coming) , we want to eat at {restaurant} at {time}
        <do> (hold|secure|line up|block) a table at {restaurant} [for {party}] <when>
        <do> (arrange|set up|plan|organise) (dinner|lunch) (at|in) {restaurant} with {person} <when>
        table for {party} at {restaurant} <when> [at {time}]
        we'll take the {time} table at {restaurant} [<when>]
        <ask> (call|ring) {restaurant} and (ask for|find us) a table <when>
        i'm taking {person} to {restaurant} <when> , (keep|save) us two seats
        (is it|would it be) ok if {party} of us (come|came) to {restaurant} <when> at {time} ?
        <ask> (drop|put) my name on the list at {restaurant} <when>
    """,
    "dining_change": """
        <do> (change|move|switch|shift) <my> (table|reservation|booking) at {restaurant} to {day} [at {time}]
        <do> (push back|put off|bring forward|bump) <my> (dinner|table) at {restaurant} (to|until) {time}
        <ask> (make|set) <my> (reservation|table) at {restaurant} [for] {party} instead of {party}
        there will be {party} of us at {restaurant} <when> , not {party}
        <do> (swap|exchange) <my> table at {restaurant} for (a bigger one|one outside)
        <do> add {party} people to <my> (table|reservation|dinner) at {restaurant} [<when>]
        we're running late , can {restaurant} (keep|hold) our table until {time} [?]
        <do> eat at {restaurant} rather than {restaurant} <when>
        can (i|we) come to {restaurant} at {time} instead [of {time}] ?
        {person} is joining us at {restaurant} <when> , so we need another chair
        <ask> put <my> reservation at {restaurant} under {person} instead
        <do> (update|edit|adjust) <my> (order|booking) (at|from) {restaurant} [<when>]
        our dinner at {restaurant} is <when> now [at {time}]
    """,
    "dining_cancel": """
        <do> (cancel|call off|drop|scrap) <my> (table|reservation|booking|order) at {restaurant} [<when>]
        <ask> (let|tell) {restaurant} [know] we (are not coming|won't show up) <when>
        we (can't|won't) (make it to|be at) {restaurant} <when>
        <ask> (get rid of|undo|remove|delete) <my> (dinner|lunch) reservation at {restaurant}
        {person} is (ill|sick) , so no dinner at {restaurant} <when>
        <ask> (pull|void|release) <my> {time} table at {restaurant} [<when>]
        <do> (stop|take back|refund) the order [i placed] (from|at) {restaurant}
        we no longer need the table for {party} [at {restaurant}] [<when>]
        <ask> (give|hand) our table at {restaurant} to someone else <when>
        forget [about] (dinner|lunch|the table) at {restaurant} <when>
        <ask> take (us|my name) off the list at {restaurant} [<when>]
        can we still (get out of|back out of|pull out of) our (dinner|table) at {restaurant} [<when>] ?
        i ordered from {restaurant} by mistake [<when>]
    """,
}
