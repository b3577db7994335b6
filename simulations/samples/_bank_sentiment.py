"""Headlines of the bank's news desk: one hand-written headline a line, by split and sentiment.

`{company}` is filled from the lists of `_bank_entities`; a headline that fits one trade only names its company.
"""

TRAIN = {
    "positive": """
{company} beats profit forecasts and raises its outlook for the full year
Ostrand Motors wins a record order for two hundred electric buses
Shares in {company} jump as margins widen for the fourth quarter running
{company} returns to profit after three years of losses
Strong demand in Asia lifts quarterly sales of {company} by a fifth
{company} doubles its dividend and announces a share buyback
{company} cuts its debt much faster than planned
Upbeat Korvath Robotics to hire eight hundred engineers for its new plant
Regulator clears the flagship medicine of Velpharo ahead of schedule
Despite weak markets, {company} lifts its earnings to a new high
{company} shrugs off supply problems and delivers its best quarter yet
Losses narrow sharply at {company} as cost savings begin to pay off
Rating agency upgrades {company} on stronger cash flow
{company} gains market share while its rivals retreat
Orders at Zolvane Batteries surge after the launch of a cheaper battery
Investors cheer as {company} settles its long legal fight for less than feared
{company} opens its second profitable factory within a year
Passenger numbers at Marlune Airlines climb back above their earlier peak
{company} secures long-term funding on better terms than expected
Analysts raise price targets for {company} after a convincing strategy day
Booming exports to Asia push {company} to record revenue
Merivault reports fewer defaults and higher interest income
Turnaround at {company} gathers pace as sales grow in every region
Takeover bid values {company} at a generous premium
{company} avoids a strike with a pay deal that pleases both sides
Customers flock to the new stores of Quenby Lane Stores, boosting turnover
{company} expects profit to grow by at least ten per cent
Lower energy bills give {company} an unexpected boost
{company} emerges from restructuring leaner and back in the black
Jobless rate falls to its lowest level in thirty years
Factory output rebounds strongly and beats all expectations
Retailers enjoy their best holiday season for a decade
{company} wins back its biggest client after improving quality
Though sales dipped, {company} earns more than ever thanks to higher prices
Healthy order book makes {company} confident about the coming year
{company} soars on its first day of trading
Farm exporters celebrate bumper harvest and rising prices
{company} breaks even two years earlier than promised
Patent victory strengthens the lead of {company} over its competitors
{company} repays its emergency loan early and in full
Productivity gains help {company} to outperform the sector
Consumer mood brightens as inflation eases more than forecast
Kelmscar Tyres signs lucrative supply deal with two large carmakers
Record bookings put Mistral Quay Hotels on course for its finest summer
""",
    "negative": """
{company} warns on profit as orders dry up
Shares in {company} plunge after the surprise exit of its finance chief
{company} to close three plants and cut nine hundred jobs
Quarterly loss at {company} deepens despite higher sales
{company} misses forecasts by far and scraps its dividend
Regulator fines {company} over faulty and missing safety records
Creditors lose patience with {company} as debt talks collapse
Fire at the main warehouse of {company} halts deliveries for weeks
{company} loses its biggest customer to a cheaper rival
Rising fuel costs wipe out the profit of {company}
Rating agency cuts the bonds of {company} to junk status
Ashgrave Tools recalls thousands of heaters because of fire risk
Strikes cripple {company} in the middle of its busiest season
Sales at {company} fall for the sixth quarter in a row
Farrowlight delays its new engine again, angering airlines
Investors flee {company} after auditors refuse to sign its accounts
{company} slashes its outlook as consumers tighten their belts
Court orders {company} to pay heavy damages in patent case
Once-promising {company} files for insolvency and stops paying suppliers
Write-downs on old mines and ships drag Sundermoor Mining into the red
Although revenue hit a record, {company} slips to a painful loss
Halvorne Telecom suffers a data breach that exposes customer accounts
Margins at Juniper Row Retail shrink as discounts fail to lure shoppers
Fraud probe sends {company} to its lowest price in ten years
{company} abandons its growth target amid ever fiercer competition
Bad loans pile up at Jorvanta and eat into its capital
{company} halts production once more because of missing parts
Merger of {company} and {company2} collapses in acrimony
Pension hole at {company} grows larger than feared
Cost overruns threaten the flagship project of {company}
House builders slump as mortgage rates climb yet again
Unemployment rises unexpectedly and darkens the mood of consumers
Exports shrink at the fastest pace since the crisis
Factory closures spread gloom across the industrial north
{company} struggles to refinance its bonds as lenders turn wary
Short sellers target {company} over its doubtful revenue
Weak harvest and high debts push Brackenshaw Seeds to the brink
Lowthorn Gas loses licence after repeated safety violations
New tariffs hit {company} harder than its competitors
Even a cheap currency cannot halt the decline of {company}
Trial failure wipes a third off the value of Xandrel Pharma
Yarrowgate Media bleeds cash as subscribers leave in droves
Retailers brace for their worst winter in years
Profit at Hexworth Steel tumbles by half on falling steel prices
""",
    "neutral": """
{company} to publish its annual report next Thursday
{company} appoints a new head of human resources
{company} moves its headquarters to the other side of the river
Annual meeting of {company} to be held in the town hall
{company} completes the sale of its office building as announced
{company} changes its name and logo after the move
{company} and {company2} extend their supply contract on existing terms
Quarterly sales of {company} unchanged from a year earlier
{company} to move its share listing to another exchange
Central bank keeps its key interest rate where it is
{company} names auditors for the coming financial year
Shareholders of {company} elect two members of the supervisory board
{company} confirms its forecast for the full year
{company} to present new product range at the autumn fair
Shares in {company} little changed in quiet trading
{company} converts its preference shares into ordinary shares
{company} issues notice of interest payment to bondholders
Statistics office revises its method for measuring factory output
{company} holds talks with the city about a new bus stop
Windle Hatch Toys replaces paper statements with electronic ones
Finance committee to discuss draft budget in closed session
{company} renews the lease on its warehouse for five years
{company} splits its financial reporting into three segments
Trading in {company} to resume after routine technical pause
{company} publishes the agenda for its investor day
{company} to change the date on which salaries are paid
Ownership of {company} passes from the founder to a family trust
{company} files registration papers for a bond programme
Board of {company} proposes the same dividend as last year
{company} transfers the running of its computers to {company2}
Tax office reminds firms of the filing deadline
Number of shops run by Grisholm Bakeries stays at one hundred and twelve
{company} to hold its results call in the afternoon
Tarvessa Energy begins regular maintenance at its refinery
New accounting rules will apply to leases from next year
{company} registers a subsidiary in Lisbon for its licences
Exchange adjusts the weight of {company} in the index
{company} designates a new contact for press inquiries
Chair of {company} to serve a further term of four years
Oil price flat as traders await inventory data
{company} describes its plans for packaging in a new brochure
{company} introduces badges with photographs for all visitors
Voting rights of {company} notified under disclosure rules
{company} and union to begin scheduled wage negotiations
""",
}

VALIDATION = {
    "positive": """
{company} exceeds its own targets and rewards staff with a bonus
Fresh contracts secure work at {company} for the next six years
Stock of {company} rallies on hopes of faster growth
{company} turns a loss into a healthy surplus
Tourism rebounds and fills hotel rooms to the last bed
{company} praised by analysts after solid cost control
In spite of the drought, Mossvine Wines harvests record earnings
Cheaper raw materials widen the margin of {company}
""",
    "negative": """
{company} sinks deeper into debt as its lenders grow nervous
Disappointing launch leaves {company} with piles of unsold stock
{company} pulls out of flotation after poor response
Earnings of {company} collapse under the weight of lawsuits
Flood damage forces Hestermoor Plastics to suspend two production lines
Bankruptcies among small shops reach a painful peak
Even after deep cuts, {company} fails to stop its losses
{company} accused of hiding defects from its buyers
""",
    "neutral": """
{company} sends out invitations to its general meeting
{company} will report in euros instead of dollars
Deputy manager takes over as spokesman of {company}
{company} leaves its guidance for the year as it was
{company} and {company2} move into a shared office block
Ministry publishes the timetable for talks on pensions
Turnover at {company} in line with last year's figure
{company} to relocate archive to a new building
""",
}

TEST = {
    "positive": """
{company} trounces estimates and sees brighter months ahead
Bidders queue up for {company}, driving its stock to an all-time high
{company} hands out extra dividend after bumper year
Cash pours in at Nightjar Studios as its streaming gamble pays off
Breakthrough in trials sends Coldharrow Labs to the top of the market
What looked like a crisis ends well, with {company} making more money than before
{company} wipes out its debt with months to spare
Carmaker orders rescue Ironvale Castings and save six hundred jobs
Thriving online trade more than makes up for empty shops at Mandrelle Fashion
{company} outpaces its competitors in every product line
Savings plan at {company} bears fruit sooner than analysts had hoped
Loss-making no more, {company} celebrates its first surplus
Households feel richer as wages outstrip prices at last
Two upgrades in one week underline the recovery of {company}
Cheap loans spark a building revival in coastal towns
""",
    "negative": """
Lapwing Grocers stumbles as shoppers stay away from its stores
Gloomy forecast wipes millions off the worth of {company}
{company} axes its dividend to conserve dwindling cash
Boardroom row leaves {company} without a leader at the worst moment
Record turnover cannot save {company} from a dismal year
{company} begs banks for more time to pay
Faulty brakes cost Hobbleton Coaches dearly in court and in reputation
Hopes for a rescue of {company} fade after buyer walks away
Mounting defaults rattle lenders and frighten small savers
{company} forced to sell its best business to survive
Thousands face the sack as Teasel Hill Mills shuts its oldest mill
Profits evaporate at {company} after botched computer switch
Rally in shares of {company} proves short-lived as doubts return
Ships lie idle and freight income dwindles at Fulmarine
Inspectors find serious flaws at the laboratories of Hazelbourne Clinics
""",
    "neutral": """
{company} chooses Tuesday for its yearly gathering of investors
Former teacher joins the advisory council of {company}
{company} to rename two of its regional divisions
No change in headcount at {company} compared with last spring
{company} lists three candidates for the vacant board seat
Results of {company} match those of the previous period
{company} swaps its old trading symbol for a shorter one
Visitors can tour the control room of Ulverbeck Nuclear at weekends
{company} hands over the keys of its former depot to the council
Statutory audit of {company} passes to another firm by rotation
Markets pause before the publication of price data
{company} sets out the calendar for its interim statements
Share count of {company} remains at forty million
Department of trade opens consultation on labelling rules
{company} and {company2} keep their joint venture going for another term
""",
}
