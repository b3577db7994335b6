"""Financial news sentences of the bank: invented companies, and sentences with slots, by split.

`{company}` is filled from the split's list; the headlines of `_bank_sentiment` use the same lists.
A line without slots is a sentence without entities.
"""

COMPANIES = {
    "train": """
Norvane
Quillmere Foods
Tarvessa Energy
Copper Lantern Brewing
Blue Alder Shipping
Ostrand Motors
Velpharo
Brindlecote Textiles
Hexworth Steel
Marlune Airlines
Zephyrine Cosmetics
Kestrow Software
Orbeck & Dane
Pellavar
Sundermoor Mining
Thrushfield Dairy
Wexmoor Rail
Ivorstone Cement
Larkhaven Homes
Drovemark Logistics
Fennvale Glass
Gildenbrook Insurance
Halvorne Telecom
Juniper Row Retail
Korvath Robotics
Lumenfold
Mistral Quay Hotels
Nettlebank Paper
Oakentide Timber
Plovermere Water
Rookhurst Press
Tindrel
Umberlake Paints
Vantrosse
Windle Hatch Toys
Xandrel Pharma
Yarrowgate Media
Zolvane Batteries
Ashgrave Tools
Brackenshaw Seeds
Corvelle Watches
Dunmarrow Meats
Elderquist Marine
Farrowlight
Grisholm Bakeries
Hollin Bay Fisheries
Inkwell Harbour Games
Jorvanta
Kelmscar Tyres
Lowthorn Gas
Merivault
Nimbrel Satellites
Orrinstead Furniture
Pagefield Semiconductors
Quenby Lane Stores
Ravelmoor Wind
Skelderby Ports
""",
    "validation": """
Aldervoss
Brightmere Solar
Cinderhall Ceramics
Dravenport Freight
Emberlyn Foods
Foxglove Street Cafes
Gravenor Turbines
Hestermoor Plastics
Ilvanta
Jackdaw Lane Books
Kinverth Labs
Longmarl Aggregates
Mossvine Wines
Northspar Offshore
Oriflect
Pinegate Lifts
Quorndale Tractors
Russetwood Apparel
""",
    "test": """
Bellisarde
Cawdrelle Foods
Draymoor Engines
Eskerline Ferries
Fulmarine
Goldenthwaite Jewellers
Hazelbourne Clinics
Ironvale Castings
Jessamore Gardens
Kittiwake Air
Loxmere
Mandrelle Fashion
Nuthatch Mobile
Ottersby Pumps
Pardelune
Quaverstone Audio
Redshank Brewery
Sablecroft Leather
Tamarisk Road Cinemas
Ulverbeck Nuclear
Vireo Data
Whinfell Cables
Yewbarrow Sports
Zinnia Court Care
Arkenfall Potash
Bramblewick Cereals
Coldharrow Labs
Dovestrand Yachts
Elmsgrave Bricks
Firecrest Gaming
Greywether Capital
Hobbleton Coaches
Islewright Cranes
Kernowick Tungsten
Lapwing Grocers
Millsonde
Nightjar Studios
Owlsworth Locks
Petrelline
Rushbarrow Farms
Stonechat Networks
Teasel Hill Mills
""",
}

SENTENCES = {
    "train": """
Shares in {company} rose three per cent after the half-year report.
{company} said it would cut two hundred jobs at its northern plant.
The board of {company} has rejected an offer from {company2}.
Analysts expect {company} to raise its dividend for the fifth year running.
{company} and {company2} are in early talks about a merger.
Investors punished {company} for missing its sales target.
The loan to {company} is secured by two office buildings.
Profit at {company} doubled as demand surged in the north.
Rival {company} has gained market share since the price war began.
The chief executive of {company} will step down at the end of the year.
A spokesman for {company} declined to comment on the rumours.
{company} bought a forty per cent stake in {company2} for ninety million euros.
After weeks of silence, {company} admitted that its accounts contained errors.
Bonds issued by {company} traded below par for the first time.
The fund manager called {company}, {company2} and {company3} his favourite shares.
Rising fuel costs weighed on {company}, whose margin shrank to four per cent.
The regulator fined {company} for misleading its customers.
Unlike {company}, the smaller {company2} has kept its offices open.
A factory fire halted production at {company} for two weeks.
The new plant in Rotterdam will be run jointly by {company} and {company2}.
Credit insurers have reduced their cover for suppliers of {company}.
{company} plans to list its shares on the stock exchange next spring.
Workers at {company} voted to accept the new pay deal.
Private investors hold a quarter of {company}, founded as a family firm.
The bank raised its price target for {company} to eighteen pounds.
Sales of {company} in Nairobi grew twice as fast as those at home.
{company}, founded by two brothers, warned that orders had dried up.
According to {company}, the strike will cost no more than six million dollars.
The hedge fund increased its short position in {company}.
Turnover at {company} was flat, while {company2} reported a slight decline.
A court cleared the way for {company} to sell its overseas business.
The rating of {company} was lowered by one notch to junk.
Smaller shares returned to growth, and {company} led the gains.
{company} has hired advisers to explore a sale of its smallest unit.
The largest shareholder of {company} wants two seats on the board.
Cash flow improved at {company} thanks to lower inventories.
The takeover of {company2} doubled the size of {company} within a year.
Brokers said {company} was the most traded share of the session.
In a letter to clients, {company} defended its high fees.
Delivery problems at {company} forced several customers to idle their lines.
""",
    "train_without": """
The central bank left its key interest rate unchanged for the third time.
House prices fell slightly in the capital but rose in the regions.
Oil traded near ninety dollars a barrel as supplies tightened.
The finance ministry wants to simplify the tax on small savings.
Consumer confidence reached its highest level in four years.
Economists had predicted a smaller rise in unemployment.
Investors moved their money from shares into government bonds.
The trade deficit narrowed because exports of machinery picked up.
Wage growth outpaced inflation for the second quarter in a row.
A weak harvest has pushed up the price of wheat and maize.
Many households are switching to mortgages with a fixed rate.
Small firms complain that loans have become harder to get.
The currency lost two per cent against the dollar overnight.
Retail sales were dull, although tourists spent more than usual.
""",
    "validation": """
{company} will open six branches in Lisbon by the end of next year.
Lenders to {company} agreed to wait another month for their money.
The order went to {company} after {company2} had pulled out of the race.
Nobody at {company} was available to explain the sudden drop in revenue.
Traders blamed the fall of {company} on a gloomy note from its auditor.
Pension funds hold large stakes in {company} and {company2}.
{company} posted its first annual loss since it was founded.
Strong exports lifted {company} to the top of the index.
""",
    "validation_without": """
The budget deficit was smaller than the government had forecast.
Copper and nickel prices recovered from their autumn lows.
Savers withdrew less money than in the previous quarter.
""",
    "test": """
A profit warning sent {company} tumbling to its lowest price in a decade.
Few traders believe that {company} can service its debt much longer.
At {company}, the night shift will be abolished from next summer.
Customers deserted {company} in favour of its cheaper competitor {company2}.
It was {company} that had tipped off the press, the inquiry concluded.
The pension trustees sued {company} for unpaid contributions.
Talks collapsed when {company} demanded a higher price for its harbour site.
Thanks to a mild winter, {company} spent less on heating than planned.
Both {company} and {company2} have promised to freeze executive pay.
Two former managers of {company} have set up a rival workshop in Turin.
Activists are pressing {company} to spin off its property arm.
Once a market darling, {company} is now worth less than its real estate.
The contract was split evenly between {company}, {company2} and {company3}.
Hit by strikes, {company} missed every third delivery.
The buyout firm is said to value {company} at half a billion.
Nothing suggests that {company} misused the subsidies, the ministry said.
The outlook for {company} has brightened since tariffs were lifted.
Four out of five directors at {company} bought shares last week.
With its patent gone, {company} faces a flood of cheap copies.
Fresh capital allowed {company} to pay off {company2}, its oldest creditor.
Opposition is growing to the depot that {company} wants to build near Cork.
Short sellers have circled {company} ever since the audit was delayed.
Energy taxes were halved, a windfall for {company}.
How {company} intends to finance the purchase remains unclear.
Suppliers are owed eleven million by {company}, the administrator found.
No dividend has flowed from {company} since the flood two winters ago.
The state may have to rescue {company}, a minister hinted on the radio.
Hardly anyone noticed when {company} quietly bought back its own bonds.
Among the losers of the day was {company}, down by nine per cent.
Half of the staff who left {company} now work for {company2}.
Were rates to fall, {company} could refinance at half the cost.
A tax ruling spares {company} from paying back forty million.
Savers who had trusted {company} queued outside its headquarters.
The newspaper claims that {company} and {company2} fixed their prices.
Spending on research at {company} has trebled under the new owners.
For a symbolic one euro, {company} got rid of its ailing subsidiary.
Next in line for the index is {company}, whose shares keep climbing.
""",
    "test_without": """
Lenders have become choosier about whom they give mortgages to.
Gold slipped as the prospect of higher rates dulled its appeal.
Fewer young people than ever are saving for old age.
Import duties on bicycles will be phased out over three years.
The parliament voted to tax windfall profits of landlords.
""",
}
